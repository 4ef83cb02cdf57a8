#!/usr/bin/env python3
"""Read a URL to its end with the standard library: http-get.py URL; certificates are not checked."""

import ssl
import sys
import urllib.request

context = ssl._create_unverified_context()
with urllib.request.urlopen(sys.argv[1], context=context) as answer:
    while piece := answer.read(1 << 20):
        sys.stdout.buffer.write(piece)
