#!/usr/bin/env python3
"""Writes container images of one static binary as an archive that `ctr image import` and `docker load` read.

    image.py OUT.tar BINARY --user 65532:65532 --image sluice.dev/app:v1 VERSION=v1 --image sluice.dev/app:v2 VERSION=v2

All images of an archive share one layer, the binary at /<its name>, which is also the entrypoint; they differ in
name and environment. The same input gives the same bytes.
"""

import argparse
import hashlib
import io
import json
import os
import tarfile


def add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = mode
    archive.addfile(entry, io.BytesIO(content))


def layer(binary: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive, open(binary, "rb") as file:
        add(archive, os.path.basename(binary), file.read(), 0o755)
    return out.getvalue()


def config(binary: str, user: str, environment: list[str], digest: str) -> bytes:
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/" + os.path.basename(binary)], "User": user, "Env": environment},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
    }
    return json.dumps(image).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("binary")
    parser.add_argument("--user", required=True, help="UID:GID that the container runs as")
    parser.add_argument("--image", required=True, action="append", nargs="+", metavar=("NAME", "KEY=VALUE"))
    args = parser.parse_args()

    content = layer(args.binary)
    digest = hashlib.sha256(content).hexdigest()
    manifest, partial = [], args.out + ".partial"
    with tarfile.open(partial, "w") as archive:
        add(archive, f"{digest}.tar", content, 0o644)
        for name, *environment in args.image:
            description = config(args.binary, args.user, environment, digest)
            file = hashlib.sha256(description).hexdigest() + ".json"
            add(archive, file, description, 0o644)
            manifest.append({"Config": file, "RepoTags": [name], "Layers": [f"{digest}.tar"]})
        add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)
    os.replace(partial, args.out)


if __name__ == "__main__":
    main()
