"""The `mmsent` command: parses, calls, draws. Heavy libraries are imported inside the commands: `--help` is instant."""
