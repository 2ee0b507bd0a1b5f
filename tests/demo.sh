#!/usr/bin/env bash
# Merges real, tiny, trained models and shows what happened: whole models (UNet, text encoder, VAE)
# from ../shared/models where that is there, else the UNets in tests/data.
set -euo pipefail
BUILD=${BUILD:-build}
export PATH="$(realpath "$BUILD"):$PATH"
out=$(mktemp -d "${TMPDIR:-/tmp}/ckmerge-demo.XXXXXX")

if [ -d ../shared/models/clothes ] && [ -d ../shared/models/shoes ] && [ -d ../shared/models/base ]; then
    models=$(realpath ../shared/models)
    base=$models/base clothes=$models/clothes shoes=$models/shoes
    echo "Three tiny Stable-Diffusion-shaped models, really trained: base, and two fine-tunes of it that"
    echo "know clothes and shoes. They are folders as diffusers writes them: UNet, text encoder, VAE."
else
    models=$(realpath tests/data)
    base=$models/base.safetensors clothes=$models/clothes.safetensors shoes=$models/shoes.safetensors
    echo "The UNets of three tiny Stable-Diffusion-shaped models, really trained: base, and two fine-tunes"
    echo "of it that know clothes and shoes."
fi

say() { printf '\n%s\n' "$*"; }
run() { printf '\n  $ %s\n' "${*//$models\//}"; "$@" | sed 's/^/  /'; }
cd "$out"

say "What is in a model?"
run cktool inspect "$clothes"

say "Seven parts clothes, three parts shoes:"
run ckmerge "$clothes" "$shoes" --alpha 0.3 -o mix.safetensors

say "How far did it move from clothes, and from shoes?"
run cktool diff "$clothes" mix.safetensors
run cktool diff "$shoes" mix.safetensors

say "What shoes learned over base, added to clothes, with the recipe kept and locked:"
run ckmerge "$clothes" "$shoes" "$base" -m add-difference --alpha 1 -o both.safetensors \
    --write-recipe both.json --lock

say "The recipe again: the same bytes."
run ckmerge --recipe both.json -o again.safetensors -q
cmp both.safetensors again.safetensors
echo "  both.safetensors and again.safetensors are identical"

say "And what would a merge do to each tensor, if only attention were mixed?"
printf '\n  $ ckmerge clothes shoes --rule "*attn*=0.8" --rule "*=exclude" --dry-run | tail -4\n'
ckmerge "$clothes" "$shoes" --rule '*attn*=0.8' --rule '*=exclude' --dry-run -o x.safetensors |
    tail -4 | sed 's/^/  /'

cat <<END

The files are in $out
Try next, with models of your own:
  $(realpath --relative-to="$OLDPWD" "$OLDPWD/$BUILD" 2>/dev/null || echo build)/ckmerge A.safetensors B.safetensors --alpha 0.3
  ckmerge --help, ckmerge methods, cktool --help
  recipes/README.md for merges that are kept as files
END
