#!/bin/sh
# The runs of docs/results_joint.md: operators and skips searched together on a chain, operators alone on a residual
# network of the same convolutions, both trained from scratch on the set of the search and on a second one.
#
#     tools/joint_run.sh CIFAR10.npz FASHION_MNIST.npz OUT
#
# A step whose JSON is in OUT already is left out, so that an interrupted run goes on with the step it stopped in.
set -eu
cifar=$1 fashion=$2 out=$3
export OMP_NUM_THREADS=1
mkdir -p "$out"

step() { # NAME, then the arguments of narfx
    name=$1
    shift
    [ -s "$out/$name.json" ] && return
    rm -rf "${out:?}/$name"
    start=$(date +%s)
    narfx "$@" --out "$out/$name" --json >"$out/$name.part" 2>"$out/$name.log"
    echo "$name: $(($(date +%s) - start)) s"
    mv "$out/$name.part" "$out/$name.json"
}

search() { # NAME, MODEL, then what is of this search alone
    name=$1 model=$2
    shift 2
    step "$name" search "$model" "$@" --init scratch \
        --operators base,dwsep3x3,maxpool3x3,avgpool3x3,conv5x5,dwsep5x5 --max-candidate-params 3x \
        --budget "macs<=6.4M" --data "$cifar" --data-fraction 0.2 --val-fraction 0.2 --batch-size 64 \
        --epochs 10 --pretrain-epochs 2 --t0 10 --steps 40 --proposals 5 --reward-images 200 --seed 0
}

compare() { # NAME, DATA, the fraction that gives 8000 images to train on
    step "$1" compare "JOINT=$out/joint/arch.json" "NAR=$out/nar/arch.json" --data "$2" --data-fraction "$3" \
        --val-fraction 0.2 --augment crop-flip --batch-size 64 --epochs 4 --t0 4 --lr 0.05 --init scratch \
        --input 3,32,32 --seeds 2 --randoms 2 --seed 0
}

search joint "narfx:chain12?channels=16" --search-skips --no-skips-from-input --strategy enas
search nar "narfx:resnet_cifar?depth=14&channels=16,16,16" --strategy nar
for run in joint nar; do
    for what in gradients rewards; do
        step "$run-$what" analyze "$what" "$out/$run"
    done
done
compare cifar "$cifar" 0.2
compare fashion "$fashion" 0.166667
