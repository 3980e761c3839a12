"""``python -m astseg``, and ``torchrun ... -m astseg``: the command line."""

from astseg.cli import main

if __name__ == "__main__":
    main()
