#!/usr/bin/env python3
"""Look at Glance from outside, with nothing but the standard library.

    glance-image.py list
    glance-image.py show ID
    glance-image.py download ID FILE     prints {"bytes", "md5", "sha256", "sha512"} of what came
    glance-image.py delete ID

The server and the credentials come from OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME
and, by default "Default", OS_USER_DOMAIN_NAME and OS_PROJECT_DOMAIN_NAME. Answers are JSON.
"""

import hashlib
import json
import os
import sys
import urllib.error
import urllib.request

# Loopback servers: whatever proxy the machine uses is not for them.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def request(method, url, token=None, body=None):
    headers = {"Accept": "application/json"}
    if token:
        headers["X-Auth-Token"] = token
    data = None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    return OPENER.open(urllib.request.Request(url, method=method, data=data, headers=headers), timeout=600)


def login():
    """A project token, and the public endpoint of the image service from its catalogue."""
    env = os.environ
    auth = env["OS_AUTH_URL"].rstrip("/")
    auth += "" if auth.endswith("/v3") else "/v3"
    body = {"auth": {
        "identity": {"methods": ["password"], "password": {"user": {
            "name": env["OS_USERNAME"], "password": env["OS_PASSWORD"],
            "domain": {"name": env.get("OS_USER_DOMAIN_NAME", "Default")}}}},
        "scope": {"project": {
            "name": env["OS_PROJECT_NAME"],
            "domain": {"name": env.get("OS_PROJECT_DOMAIN_NAME", "Default")}}}}}  # fmt: skip
    with request("POST", auth + "/auth/tokens", body=body) as answer:
        token = answer.headers["X-Subject-Token"]
        catalogue = json.load(answer)["token"]["catalog"]
    for service in catalogue:
        for endpoint in service["endpoints"] if service["type"] == "image" else []:
            if endpoint["interface"] == "public":
                url = endpoint["url"].rstrip("/")
                return token, url.removesuffix("/v2")
    sys.exit("glance-image: the catalogue has no public image endpoint")


def images(token, glance):
    found, next_page = [], "/v2/images?limit=100"
    while next_page:
        with request("GET", glance + next_page, token) as answer:
            page = json.load(answer)
        found += page["images"]
        next_page = page.get("next")
    return found


def download(token, glance, image, path):
    digests = {name: hashlib.new(name) for name in ("md5", "sha256", "sha512")}
    count = 0
    with request("GET", f"{glance}/v2/images/{image}/file", token) as answer, open(path, "wb") as out:
        while piece := answer.read(1 << 20):
            count += len(piece)
            out.write(piece)
            for digest in digests.values():
                digest.update(piece)
    return {"bytes": count, **{name: digest.hexdigest() for name, digest in digests.items()}}


def main():
    args = sys.argv[1:]
    counts = {"list": 1, "show": 2, "download": 3, "delete": 2}
    if not args or counts.get(args[0]) != len(args):
        sys.exit(__doc__)
    try:
        token, glance = login()
        if args[0] == "list":
            answer = images(token, glance)
        elif args[0] == "show":
            with request("GET", f"{glance}/v2/images/{args[1]}", token) as reply:
                answer = json.load(reply)
        elif args[0] == "delete":
            request("DELETE", f"{glance}/v2/images/{args[1]}", token).close()
            answer = {"deleted": args[1]}
        else:
            answer = download(token, glance, args[1], args[2])
    except KeyError as missing:
        sys.exit(f"glance-image: {missing} is not set")
    except urllib.error.HTTPError as error:
        sys.exit(f"glance-image: {error.url}: {error.code} {error.read(300)!r}")
    except urllib.error.URLError as error:
        sys.exit(f"glance-image: {error.reason}")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
