#!/usr/bin/env bash
# Unpacks an aarch64 Python from Debian packages into a folder, with a `python` command that runs it under qemu.
# Nothing is installed on this machine, and root is not required.
#
#   scripts/aarch64_root.sh DIRECTORY     requires apt-get, dpkg and qemu-aarch64-static
set -euo pipefail

root=$(realpath -m "${1:?expected a directory}")
qemu=$(command -v qemu-aarch64-static) || { echo "$0: qemu-aarch64-static: not found; install the package qemu-user-static" >&2; exit 1; }
packages="$root/packages"
mkdir -p "$packages/lists/partial" "$packages/archives/partial"

apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State::status=/dev/null
     -o Dir::State::lists="$packages/lists" -o Dir::Cache="$packages" -o Debug::NoLocking=1)
"${apt[@]}" update
"${apt[@]}" install --download-only --yes --no-install-recommends python3 libpython3-dev libstdc++6
for package in "$packages"/archives/*.deb; do
  dpkg-deb --extract "$package" "$root"
done

# argv[0] is the script, so processes that Python starts through `sys.executable` are emulated too.
cat > "$root/usr/bin/python" <<END
#!/bin/sh
exec $qemu -L $root -0 "\$0" $root/usr/bin/python3 "\$@"
END
chmod +x "$root/usr/bin/python"
"$root/usr/bin/python" -c 'import platform; print(f"{platform.machine()}: Python {platform.python_version()}")'
