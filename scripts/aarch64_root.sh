#!/usr/bin/env bash
# Puts a Python for aarch64 into a folder, of Debian's packages, with a `python` there that runs it under qemu. Nothing is
# installed on this machine, and root is not needed.
#
#   scripts/aarch64_root.sh DIRECTORY     needs apt-get, dpkg and qemu-aarch64-static
set -euo pipefail

root=$(realpath -m "${1:?expected a directory}")
qemu=$(command -v qemu-aarch64-static) || { echo "$0: qemu-aarch64-static: not found; it is in qemu-user-static" >&2; exit 1; }
packages="$root/packages"
mkdir -p "$packages/lists/partial" "$packages/archives/partial"

apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State::status=/dev/null
     -o Dir::State::lists="$packages/lists" -o Dir::Cache="$packages" -o Debug::NoLocking=1)
"${apt[@]}" update
"${apt[@]}" install --download-only --yes --no-install-recommends python3 libpython3-dev libstdc++6
for package in "$packages"/archives/*.deb; do
  dpkg-deb --extract "$package" "$root"
done

# Its own name is the script's, so that what Python starts by `sys.executable` is emulated too.
cat > "$root/usr/bin/python" <<END
#!/bin/sh
exec $qemu -L $root -0 "\$0" $root/usr/bin/python3 "\$@"
END
chmod +x "$root/usr/bin/python"
"$root/usr/bin/python" -c 'import platform; print(f"{platform.machine()}: Python {platform.python_version()}")'
