"""PyMIC's supervised training as a peer: the configuration of ``pymic.py`` without unlabelled scans."""

from pymic import main

if __name__ == "__main__":
    main("fully_sup")
