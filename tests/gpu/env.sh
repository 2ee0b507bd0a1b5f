# Sourced by card.sh. `ours PROGRAM ...` runs one of $gpu, with NVIDIA's libraries from where the
# system or PyPI's packages have them. (Python keeps its own.)
BUILD=${BUILD:-build} PYTHON=${PYTHON:-python3}
export gpu=${GPU:-$BUILD/gpu} PYTHON
[ -e "$gpu/libck-cuda.so" ] || { echo "$gpu is not there: \`make gpu-pack\` makes it" >&2; exit 1; }
site=$("$PYTHON" -c 'import site; print(*site.getsitepackages())' 2>/dev/null || true)
libraries=$(for s in $site; do ls -d "$s"/nvidia/*/lib 2>/dev/null; done | paste -sd: || true)
export CK_BUILD="$PWD/$gpu" OMP_WAIT_POLICY=passive
[ -d "$gpu/python" ] && export PYTHONPATH="$PWD/$gpu/python${PYTHONPATH:+:$PYTHONPATH}"
ours() { env LD_LIBRARY_PATH="$PWD/$gpu/lib:$libraries:${LD_LIBRARY_PATH:-}" "$@"; }
card=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
cards=$(nvidia-smi -L 2>/dev/null | wc -l)
echo "card: ${card:=none}"
