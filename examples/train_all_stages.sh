#!/usr/bin/env bash
# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
#
# Trains all four stages of HIA, each from the pipeline of the one before:
#
#   examples/train_all_stages.sh RUNS CONFIG [OPTION ...]
#   examples/train_all_stages.sh runs/dance examples/configs/hia-paper.yaml --train_data_dir dataset
#
# The pipelines are written to RUNS/spatial, RUNS/regional, RUNS/temporal-half and RUNS/temporal-full. The options go
# to every stage; what only one of them shall have stands in CONFIG, such as where the spatial stage starts from.
# LAUNCH is the command that runs a script, `accelerate launch` by default; STAGES are the stages, by default all.
#
# The same command resumes an interrupted run: a stage that has written its pipeline is skipped, another resumes from its
# newest checkpoint.

set -euo pipefail

if (($# < 2)); then
    echo "usage: $0 RUNS CONFIG [OPTION ...]" >&2
    exit 2
fi
runs=$1 config=$2
shift 2
for option in "$@"; do
    case $option in
        --pretrained_model_name_or_path*)
            echo "$0: ${option%%=*} belongs in $config, to the spatial stage; later ones start from earlier ones." >&2
            exit 2
            ;;
        --stage | --stage=* | --config | --config=* | --output_dir* | --resume_from_checkpoint*)
            echo "$0: ${option%%=*} is given by this script." >&2
            exit 2
            ;;
    esac
done

script=$(dirname "$0")/train_hia.py
previous=()
for stage in ${STAGES:-spatial regional temporal-half temporal-full}; do
    output=$runs/$stage
    if [[ -e $output/model_index.json ]]; then
        echo "$stage: $output holds its pipeline."
    else
        echo "$stage: training in $output."
        ${LAUNCH:-accelerate launch} "$script" --stage "$stage" --config "$config" --output_dir "$output" \
            --resume_from_checkpoint latest ${previous[@]+"${previous[@]}"} "$@"
    fi
    previous=(--pretrained_model_name_or_path "$output")
done
