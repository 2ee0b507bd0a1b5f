#!/usr/bin/env bash
# Merges tiny models that were really trained, distils one, and shows what happened: `make demo`. Takes whole
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

say "What that looks like: the same noise and the same words, before and after."
for name in clothes taught; do
    file=$clothes
    [ $name = taught ] && file=$out/taught.safetensors
    run "$BUILD/ckdistill" sample --model tests/data/models/base --unet "$file" --prompt "ankle boot" \
        --cfg 3 --steps 10 -n 9 -q -o "$out/$name.png"
done
echo "    ($out/clothes.png and $out/taught.png: the second knows boots)"

say "Distil: a model of points on a checkerboard needs 35 passes; its student is to need one. The
same command, with another config, does it to image models."
run "$BUILD/ckdistill" run recipes/distill/checkerboard-cd.json -o "$out/student" -q
run "$BUILD/ckdistill" report "$out/student"
awk '/"who"/ { gsub(/[",]/, ""); who = $2 } /"steps"/ { gsub(/,/, ""); steps = $2 }
     /^\t\t\t"swd"/ { gsub(/,/, ""); printf "    %-8s %3d steps   distance to the data %.3f\n", who, steps, $2 }' \
    "$out/student/metrics.json"

cat <<END

The files are in $out. What to try next:

    $BUILD/ckmerge $clothes $shoes --alpha 0.5 --dry-run
        what would become of every tensor, without writing anything
    $BUILD/ckmerge $clothes $shoes --rule '*attn2*=0.8' -o $out/mine.safetensors
        another share for some tensors: here where the text is looked at
    $BUILD/ckmerge --recipe recipes/nested.json -o $out/nested.safetensors
        two steps in one pass; recipes/ has more
    $BUILD/ckmerge --help, $BUILD/cktool --help, $BUILD/ckdistill --help
        everything else; with your own files it works just the same
END
