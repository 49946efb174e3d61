#!/bin/sh
# DARTS v2, its widest and its narrowest variant trained alike, and the loss and gradient variance around them
# (Shu, Wang and Cai, arXiv 1909.09569). Run it again to go on where it stopped.
#
#     OUT=runs/cells DATA=torchvision:cifar10:/data EPOCHS=30 sh tools/cell_study.sh
#
# Further variables: CELLS, CHANNELS, SEEDS, FRACTION (share of the training images), BATCH, LR, GRID, IMAGES, INPUT
# (channels of the images), DEVICE, NARFX (the command).
set -eu

OUT=${OUT:-runs/cells} DATA=${DATA:-digits} EPOCHS=${EPOCHS:-10} CELLS=${CELLS:-3} CHANNELS=${CHANNELS:-8}
SEEDS=${SEEDS:-3} FRACTION=${FRACTION:-1.0} BATCH=${BATCH:-64} LR=${LR:-0.025} GRID=${GRID:-21}
IMAGES=${IMAGES:-1000} INPUT=${INPUT:-3} DEVICE=${DEVICE:-auto} NARFX=${NARFX:-narfx}

mkdir -p "$OUT"
for variant in widest narrowest; do
    [ -f "$OUT/$variant.json" ] || $NARFX analyze cells darts_v2 --variant $variant --out "$OUT/$variant.json"
done

network() { printf 'narfx:darts?genotype=%s&cells=%s&channels=%s&in_channels=%s' "$1" "$CELLS" "$CHANNELS" "$INPUT"; }
set -- "darts_v2=$(network darts_v2)" "widest=$(network "$OUT/widest.json")" "narrowest=$(network "$OUT/narrowest.json")"

# step NAME VERB OPTIONS...: start the run OUT/NAME, or go on with it.
step() {
    place=$OUT/$1 verb=$2
    shift 2
    if [ -f "$place/config.json" ]; then
        $NARFX analyze "$verb" --resume --out "$place" --device "$DEVICE"
    else
        $NARFX analyze "$verb" "$@" --out "$place" --device "$DEVICE"
    fi
}

# The recipe of DARTS, with the epochs of one cosine; --t0 is the length of the first cycle.
step convergence convergence "$@" --data "$DATA" --data-fraction "$FRACTION" --epochs "$EPOCHS" --t0 "$EPOCHS" \
    --lr "$LR" --lr-min 0 --weight-decay 0.0003 --batch-size "$BATCH" --seeds "$SEEDS"

trained=$OUT/convergence/runs
for verb in landscape variance; do
    step $verb $verb "$@" --data "$DATA" --grid "$GRID" --images "$IMAGES" --batch-size "$BATCH" \
        --weights "$trained/darts_v2-0/weights.safetensors" --weights "$trained/widest-0/weights.safetensors" \
        --weights "$trained/narrowest-0/weights.safetensors"
done
