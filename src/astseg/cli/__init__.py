"""The commands, one file each; torch is loaded only after the arguments are parsed."""
