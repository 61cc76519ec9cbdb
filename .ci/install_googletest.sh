#!/usr/bin/env bash
# Installs GoogleTest from the system's package where it is missing and we may; otherwise says how.
set -euo pipefail

probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
cat > "$probe/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.24)
project(probe LANGUAGES CXX)
find_package(GTest REQUIRED)
CMAKE
found() { cmake -S "$probe" -B "$probe/build" >/dev/null 2>&1; }

found && exit 0
if command -v apt-get >/dev/null; then
  root=()
  [ "$(id -u)" = 0 ] || root=(sudo -n)
  echo "installing libgtest-dev (GoogleTest)"
  "${root[@]}" apt-get update -qq && "${root[@]}" apt-get install -y -qq libgtest-dev >/dev/null && found && exit 0
fi
echo "GoogleTest is missing and could not be installed; install it with: sudo apt-get install libgtest-dev" >&2
exit 1
