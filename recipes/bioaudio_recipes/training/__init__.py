"""What every training run shares, whatever it trains: metrics, checkpoints, stopping, progress."""
