#!/usr/bin/env bash
# Merges tiny models that were really trained, and shows what happened: `make demo`. Takes whole
# models of MODELS (default ../shared/models) where they are, else their UNets from tests/data.
set -euo pipefail
BUILD=${BUILD:-build}
out=$BUILD/demo
models=${MODELS:-../shared/models} suffix=
[ -f $models/base/model_index.json ] || { models=tests/data suffix=.safetensors; }
base=$models/base$suffix clothes=$models/clothes$suffix shoes=$models/shoes$suffix

say() { printf '\n%s\n' "$*"; }
run() { printf '\n    $ %s\n' "$*"; "$@" | sed 's/^/    /'; }

rm -rf "$out"
mkdir -p "$out"

say "Three models of clothing: one that knows all of it, and two that were trained on from it, one on
clothes, one on shoes and bags. This is the first:"
run "$BUILD/cktool" inspect "$base"

say "Mix: 70% of the one for clothes, 30% of the one for shoes."
run "$BUILD/ckmerge" "$clothes" "$shoes" --alpha 0.3 -o "$out/mix.safetensors"

say "Teach: what shoes learned over base is added to clothes. The command is kept as a recipe, with
the hashes of everything that went in and came out."
run "$BUILD/ckmerge" "$clothes" "$shoes" "$base" --method add-difference \
    -o "$out/taught.safetensors" --write-recipe "$out/taught.json" --lock

say "Anyone who has the models makes the same file from the recipe, byte by byte."
run "$BUILD/ckmerge" --recipe "$out/taught.json" -o "$out/again.safetensors"
run cmp "$out/taught.safetensors" "$out/again.safetensors"
echo "    (the same)"

say "How far did that take it from clothes?"
run "$BUILD/cktool" diff "$clothes" "$out/taught.safetensors"

cat <<END

The files are in $out. What to try next:

    $BUILD/ckmerge $clothes $shoes --alpha 0.5 --dry-run
        what would become of every tensor, without writing anything
    $BUILD/ckmerge $clothes $shoes --rule '*attn2*=0.8' -o $out/mine.safetensors
        another share for some tensors: here where the text is looked at
    $BUILD/ckmerge --recipe recipes/nested.json -o $out/nested.safetensors
        two steps in one pass; recipes/ has more
    $BUILD/ckmerge --help, $BUILD/cktool --help
        everything else; with your own files it works just the same
END
