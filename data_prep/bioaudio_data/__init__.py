"""From files to memory maps, intervals and windows; knows no model."""
