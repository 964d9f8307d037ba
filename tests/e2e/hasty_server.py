"""`nanoctl` whose tokens for viewers are over after seconds, not after minutes."""

from nanovirt.portal.__main__ import main
from nanovirt.portal.console_tokens import LIFE_SECONDS

LIFE = 4

if __name__ == "__main__":
    LIFE_SECONDS["viewer"] = float(LIFE)
    main()
