#!/usr/bin/env bash
# The study of docs/study.md: run.sh [CACHE [NULLS]]. Writes to CACHE (default: cache) and study-out; killed, it goes on where it stopped.
# Expected: three hours on one core of a CPU with AVX-512 BF16; 1 GB of disk. NULLS (default 7, as on the page) is the number of null
# directions of each vector that are answered, about two minutes of one core for each null of a task.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="${1:-cache}"
nulls="${2:-7}"
out="study-out"
mkdir -p "$out"
export STEERCACHE_ROOT="$root"

declare -A concept=([Relation]=spatial_relationship [Count]=counting [Attribute]=attribute [Entity]=entity)
declare -A asking=(
  [Relation]="Pay attention to where things are." [Count]="Pay attention to how many things there are."
  [Attribute]="Pay attention to colours and other attributes." [Entity]="Pay attention to what things are."
)

# 1. Rows: the text backbone on the sentences; the multimodal model on the sentences and on pictures, for the SAE's health.
for run in smollm2-concepts demo-concepts demo-pictures; do steercache build "$run"; done
for run in smollm2-concepts demo-concepts demo-pictures; do
  steercache sae health smollm2-135m-l15 --run "$run" --json > "$out/health-$run.json"
done

# 2. Vectors of the SAE, from the sheets of verdicts. Mean shift and probe are fitted by the sweeps.
for task in Relation Count Attribute Entity; do
  steercache fit sae --sae smollm2-135m-l15 --concept "${concept[$task]}" --selection firing_rate \
    --verdicts "$here/verdicts-${concept[$task]}.csv"
done

for task in Relation Count Attribute Entity; do
  name="study-${task,,}"
  # 3. The search and the test: gradients of the search split, the best predicted cell of each vector, and its test.
  steercache grid "$here/$name.yaml" --mode branch
  steercache grid "$here/$name-sae.yaml" --mode branch
  # 4. Asking in words.
  steercache eval demo scenes-hard --task "$task" --split test --prompting "${asking[$task]}" --no-damage --json \
    > "$out/prompting-${task,,}.json"
  # 5. The same search for directions without the concept: 1,000 by prediction, some by answers.
  for kind in "" -sae; do
    steercache screen "$here/$name$kind.yaml" --by accuracy --nulls 1000 --json > "$out/screen-$name$kind.json"
  done
  if [ "$nulls" != 0 ]; then
    for kind in "" -sae; do steercache grid "$here/$name$kind.yaml" --nulls "$nulls" --mode branch; done
  fi
done

# 6. Dose-response of the vector with the largest search gain of the SAE.
steercache eval demo scenes-hard --task Relation --vector spatial_relationship-sae-firing-rate --layer 15 \
  --alpha 0.05,0.1,0.2,0.4,0.8 --alpha-unit target_norm --target text --split search --controls 0 --prompting '' --mode branch \
  --json > "$out/dose-relation.json"

# 7. Pages and tables.
for task in relation count attribute entity; do
  for kind in "" -sae; do steercache report html "study-$task$kind" --out "$out/study-$task$kind.html"; done
done
python "$here/collect.py" "$root" "$out"
