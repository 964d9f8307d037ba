"""`nanoctl` whose log has segments of 64 KiB and is summed up after every 128 KiB: what takes others days."""

from nanovirt.portal.__main__ import main
from nanovirt.resources.file_log import Sizes

SEGMENT, SNAPSHOT = 1 << 16, 1 << 17

if __name__ == "__main__":
    _, ballast, room, _, history = Sizes.__init__.__defaults__ or ()
    Sizes.__init__.__defaults__ = (SEGMENT, ballast, room, SNAPSHOT, history)
    main()
