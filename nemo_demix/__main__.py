"""`python -m nemo_demix` is `nemo-demix`."""

from nemo_demix.cli import main

if __name__ == "__main__":
    main()
