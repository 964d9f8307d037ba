"""`nanoctl` whose store keeps so few changes that a watch which was away for a moment has to list again."""

from nanovirt.portal.__main__ import main
from nanovirt.resources import ring

KEPT = 30

if __name__ == "__main__":
    ring.RING_CHANGES = KEPT
    main()
