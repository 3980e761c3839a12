"""``python -m astseg``, and ``torchrun ... -m astseg``: the command line."""

from astseg.cli.main import main

if __name__ == "__main__":
    main()
