"""The commands of `mmsent`, one a file. Heavy libraries are imported inside the commands: `--help` is instant."""
