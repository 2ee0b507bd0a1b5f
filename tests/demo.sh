#!/usr/bin/env bash
# The life of a model, on tiny ones that were really trained: a base, two fine-tunes, their merge, and a student of
# that which needs a few passes instead of many. `make demo`; a few minutes on two cores.
set -euo pipefail
BUILD=${BUILD:-build}
out=$BUILD/demo models=recipes/models

say() { printf '\n%s\n' "$*"; }
run() { printf '\n    $ %s\n' "$*"; "$@" | sed 's/^/    /'; }

rm -rf "$out"
mkdir -p "$out"

say "Three models of pictures of clothing: one that knows all of it, and two that were trained on from it,
one on clothes, one on shoes and bags. This is the first:"
run "$BUILD/cktool" inspect $models/base

say "Mix: 70% of the one for clothes, 30% of the one for shoes."
run "$BUILD/ckmerge" $models/clothes $models/shoes --alpha 0.3 -o "$out/mix.safetensors"

say "Teach: what shoes learned over base is added to clothes. The command is kept as a recipe, with
the hashes of everything that went in and came out."
run "$BUILD/ckmerge" $models/clothes $models/shoes $models/base --method add-difference \
    -o "$out/taught.safetensors" --write-recipe "$out/taught.json" --lock

say "Anyone who has the models makes the same file from the recipe, byte by byte."
run "$BUILD/ckmerge" --recipe "$out/taught.json" -o "$out/again.safetensors"
run cmp "$out/taught.safetensors" "$out/again.safetensors"
echo "    (the same)"

say "How far did that take it from clothes?"
run "$BUILD/cktool" diff $models/clothes "$out/taught.safetensors"

say "What that looks like: the same noise and the same words, before and after."
for name in clothes taught; do
    file=$models/clothes/unet
    [ $name = taught ] && file=$out/taught.safetensors
    run "$BUILD/ckdistill" sample --model $models/base --unet "$file" --prompt "ankle boot" \
        --cfg 2 --steps 12 -n 10 -q -o "$out/$name.png"
done
echo "    (see $out/clothes.png and $out/taught.png: a little nearer to what shoes makes)"

say "Distil: the merge needs 12 steps of two passes each for a picture (with and without the words). Its
student is to need one to four passes. First the merge as a folder, as trainers want it:"
run "$BUILD/cktool" convert "$out/taught.safetensors" "$out/taught/" --configs $models/base -q
say "Then some minutes of training:"
run "$BUILD/ckdistill" run recipes/distill/fashion-demo.json --set teacher="$PWD/$out/taught" \
    -o "$out/student" -q
run "$BUILD/ckdistill" report "$out/student"

say "Frechet distance to real pictures (less is better), of 1,000 samples each:"
printf '\n    %-8s %6s %12s %10s\n' who steps passes frechet
awk '/"who"/ { gsub(/[",]/, ""); who = $2 }
     /^\t\t\t"steps"/ { gsub(/,/, ""); steps = $2 }
     /^\t\t\t"cfg"/ { gsub(/,/, ""); each = $2 == 1 ? 1 : 2 }
     /^\t\t\t"frechet"/ { gsub(/,/, ""); printf "    %-8s %6d %12d %10.1f\n", who, steps, steps * each, $2 }' \
    "$out/student/metrics.json"
grid=$(ls "$out"/student/grids/*.png | tail -n 1)

cat <<END

Look at $grid: a row for each line of the table, from the same noise.
The student on another fine-tune (Turbo delta): what it learned is added to clothes.

    $BUILD/ckmerge $models/clothes $out/student/student.safetensors $out/taught/unet \\
        --method add-difference -o $out/turbo-clothes.safetensors

More to try, with your own files just the same:

    $BUILD/ckmerge $models/clothes $models/shoes --alpha 0.5 --dry-run
        what would become of every tensor, without writing anything
    $BUILD/ckmerge $models/clothes $models/shoes --rule '*attn2*=0.8' -o $out/mine.safetensors
        another share for some tensors: here where the text is looked at
    $BUILD/ckmerge --recipe recipes/nested.json -o $out/nested.safetensors
        two steps in one pass; recipes/ has more
    $BUILD/ckmerge --help, $BUILD/cktool --help, $BUILD/ckdistill --help
        everything else
END
