"""YAML files of whole experiments; `bioaudio COMMAND --config NAME` finds them by name."""
