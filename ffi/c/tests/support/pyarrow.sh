#!/usr/bin/env bash
# Prints the path of a Python that has pyarrow: from an environment in the user's cache, which is made when it is first asked for
# (200 MB on the disk). Several may ask at once.
set -euo pipefail

place="${XDG_CACHE_HOME:-$HOME/.cache}/ringfold-pyarrow"
python="$place/bin/python"
mkdir -p "$(dirname "$place")"
exec 9>"$place.lock"
flock 9
if ! "$python" -c 'import numpy, pyarrow.parquet' 2>/dev/null; then
    python3 -m venv --clear "$place" >&2
    "$python" -m pip install --quiet --disable-pip-version-check 'pyarrow>=18' 'numpy>=2.1' >&2
fi
echo "$python"
