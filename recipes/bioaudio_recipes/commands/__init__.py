"""One file a command of `bioaudio`: a plain function whose signature is the command line."""
