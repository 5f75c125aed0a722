"""Python that leaks through a C library and through its own objects.
TRUTH
  site from_python calls=200 bytes=20000 live_blocks=200 live_bytes=20000
  site given_to_python calls=80 bytes=4000 live_blocks=30 live_bytes=1500
  foreign python
  foreign libc
  foreign ld-linux
  foreign libffi
  foreign _ctypes
END
Fifty bytearrays of 1,000,003 bytes are kept as well: 50,000,200 bytes asked of malloc, one byte a
block more than the length.
"""
import ctypes
import os
import sys

library = ctypes.CDLL(sys.argv[1])
library.from_python.argtypes = [ctypes.c_ulong]
library.from_python.restype = None
library.given_to_python.argtypes = [ctypes.c_ulong]
library.given_to_python.restype = ctypes.c_void_p
library.taken_back.argtypes = [ctypes.c_void_p]
library.taken_back.restype = None

waits = len(sys.argv) > 2 and sys.argv[2] == "--wait"


def wait_for_line():
    while os.read(0, 1) not in (b"\n", b""):
        pass


def main():
    if waits:
        os.write(1, b"ready %d\n" % os.getpid())
        wait_for_line()
    for _ in range(200):
        library.from_python(100)
    given = [library.given_to_python(50) for _ in range(80)]
    for block in given[:50]:
        library.taken_back(block)
    kept = [bytearray(1_000_003) for _ in range(50)]
    os.write(1, b"done\n")
    if waits:
        wait_for_line()
    return kept


main()
os._exit(0)
