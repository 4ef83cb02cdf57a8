#!/usr/bin/env python3
"""Run a command and write its peak resident set, as the kernel counted it, to a file.

    peak-rss.py OUT.json COMMAND [ARGUMENT...]

OUT.json gets {"exit", "max_rss_kib", "seconds"}; the exit status is the command's.
"""

import json
import os
import sys
import time


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    began = time.monotonic()
    child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with open(sys.argv[1], "w") as out:
        seconds = round(time.monotonic() - began, 3)
        json.dump({"exit": code, "max_rss_kib": usage.ru_maxrss, "seconds": seconds}, out)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
