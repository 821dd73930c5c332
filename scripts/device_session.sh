#!/usr/bin/env bash
# One visit to a GPU: everything that a machine without one cannot show, in under ten minutes; a step that fails or runs
# out of time is noted and the next one begins.
#
#   scripts/device_session.sh pack [BUILD [TO]]    here: TO/pack.tar.xz (build-device/pack) of build/cuda-release
#   scripts/device_session.sh smol-parts           here: build-device/smol/part*, the SmolLM2 file in carriable pieces
#   there, in the root of a checkout of any commit, results to $OUT:
#     mkdir -p /tmp/pack && tar -C /tmp/pack -xJf build-device/pack/pack.tar.xz
#     bash /tmp/pack/scripts/device_session.sh run [SECTION ...]
#
# To carry beside the tracked files (45 MB): build-device/pack (8 MB), with the programs, this script and what it reads but
# the model; build-device/wheels (sgl-deep-gemm 0.1.4 and apache-tvm-ffi 0.1.11, 8 MB) for the peers.
# SmolLM2 (98 MB) needs visits of its own before: each carries one build-device/smol/partN and copies it to /tmp/smol/.
# Sections, in this order: facts kit tests nano steps bench smol sanitize profile stalls peers; none named: all, as far as
# the time goes. Where half an hour is lent, three visits: "facts kit tests nano steps", "bench peers", "sanitize profile
# stalls smol".
# SECONDS_LEFT: of the whole run, 570.
set -uo pipefail
HERE=$(cd "$(dirname "$0")/.." && pwd)
OUT=${OUT:-build/device-out}
SECONDS_LEFT=${SECONDS_LEFT:-570}

pack() {
  cd "$HERE" || return 1
  local build=${1:-build/cuda-release} to=${2:-build-device/pack} tmp
  tmp=$(mktemp -d)
  mkdir -p "$to" "$tmp/bin"
  for program in apps/fathom tests/op_cuda_test tests/device_kit_test; do
    strip -o "$tmp/bin/$(basename "$program")" "$build/$program" || return 1
  done
  git rev-parse --short HEAD >"$tmp/commit"
  cp -r scripts bench "$tmp/"
  tar -C "$tmp" -cJf "$to/pack.tar.xz" .
  rm -rf "$tmp"
  ls -l "$to/pack.tar.xz"
}

smol_parts() {
  cd "$HERE" || return 1
  mkdir -p build-device/smol
  split -b 15M -d -a 1 "${1:-$HOME/.cache/fathom/models/SmolLM2-135M-Instruct.Q4_1.gguf}" build-device/smol/part
  ls -l build-device/smol
}

# step NAME LIMIT LOG COMMAND...: the command's output goes to $OUT/LOG; at most LIMIT seconds.
step() {
  local name=$1 limit=$2 log=$OUT/$3 left=$((SECONDS_LEFT - SECONDS)) begin=$SECONDS rc
  shift 3
  if ((left < 10)); then
    echo "SKIP $name: no time left" | tee -a "$OUT/summary.txt"
    return
  fi
  echo "=== $name" >>"$log"
  timeout -k 5 $((limit < left ? limit : left)) "$@" >>"$log" 2>&1
  rc=$?
  echo "$([ $rc = 0 ] && echo ok || echo "FAIL($rc)") $name, $((SECONDS - begin)) s" | tee -a "$OUT/summary.txt"
}

facts() {
  step driver 20 facts.log nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
  step doctor 30 facts.log fathom doctor --device cuda
}

kit() {
  step device_kit 60 tests.log device_kit_test
}

# Cases for CPU packs, gigabytes of weights and slow rows on large shapes stay out.
TESTS_OUT='*packed*:*x32_*:*v3_whole*:*cuda_plain*_m1024:*cuda_plain*_m4096:*cuda_plain*_t1024:*cuda_plain*_t4096'
TESTS_OUT+=':*cuda_plain__v2_lite_*t512:*cuda_plain__v3_tp8*:*cuda_plain__llama_8b_up*:*102400_m8:*102400_m16'
TESTS_OUT+=':*102400_m32:*102400_m64:*102400_m128'
TESTS_OUT+=':*w8a8_gemm*_m1024:*w8a8_gemm*_m4096'
shards() {  # filter: as many processes as that many cores feed, since references run there
  local n=12 i rc=0
  local pids=()
  for ((i = 0; i < n; ++i)); do
    GTEST_TOTAL_SHARDS=$n GTEST_SHARD_INDEX=$i op_cuda_test --gtest_filter="$1" --gtest_brief=1 >"$WORK/shard$i" 2>&1 &
    pids+=($!)
  done
  for i in "${pids[@]}"; do wait "$i" || rc=1; done
  cat "$WORK"/shard*
  grep -h 'FAILED  \] Cuda' "$WORK"/shard* | sort -u >>"$OUT/summary.txt"
  return $rc
}

tests() {
  local first='*mla_*:*head_gemm*:*merge_states*:*grouped_moe__*_sm90*:*bf16_gemm__gemv*' row
  for row in cluster rings tile; do  # alone: a row that hangs takes its neighbours' verdicts with it
    step "op tests, fp8_block_gemm $row" 60 tests.log bash "$0" shards "*fp8_block_gemm__$row*:-$TESTS_OUT"
  done
  step "op tests, what DeepSeek needs" 120 tests.log bash "$0" shards "$first:-$TESTS_OUT"
  step "op tests, w8a8_gemm of many tokens" 60 tests.log bash "$0" shards '*w8a8_gemm__tile_sm90*llama_4096*_m1024'
  step "op tests, the rest" 120 tests.log bash "$0" shards "*:-*fp8_block_gemm__cluster*:*fp8_block_gemm__rings*:*fp8_block_gemm__tile*:$first:$TESTS_OUT"
}

NANO=models/nano-deepseek
nano() {
  step "nano: an answer" 60 nano.log fathom generate --model $NANO --device cuda -n 32 "What is 17 + 25?"
  step "nano: one request's step" 60 nano.log \
    fathom bench one-batch --model $NANO --device cuda --input-len 64 --output-len 257 --batch-size 1,16
  step "nano: tasks" 150 nano.log \
    fathom eval --model $NANO --device cuda --concurrency 32 --json --failures --tasks $NANO/eval/*.jsonl
  step "nano: answers on both devices" 120 nano.log \
    python3 "$HERE/scripts/compare_devices.py" --program "$BIN/fathom" --model $NANO --tasks $NANO/eval/*.jsonl
  python3 -c 'import json, sys; print("\n".join(json.loads(l)["reply"] for l in open(sys.argv[1])))' \
    $NANO/eval/math.jsonl >"$WORK/text"
  local device
  for device in cpu cuda; do
    step "nano: perplexity on $device" 60 nano.log \
      fathom eval --model $NANO --device $device --perplexity "$WORK/text" --json
  done
}

one_batch() {  # limit model flags
  local limit=$1 model=$2
  shift 2
  step "step of $model $*" "$limit" steps.log \
    fathom bench one-batch --model "$HERE/bench/models/$model" --load-format dummy --device cuda --context-length 4096 \
    --input-len 1024 --output-len 65 --result-filename "$OUT/steps.jsonl" --run-name "$model" "$@"
}

experts() {  # model flags: what a decode step reads
  local model=$1
  shift
  step "experts of $model" 60 steps.log \
    fathom bench one-batch --model "$HERE/bench/models/$model" --load-format dummy --device cuda --context-length 4096 \
    --input-len 1024 --output-len 9 --count-experts "$@"
}
steps() {
  one_batch 90 llama-8b --batch-size 1 8
  one_batch 120 deepseek-v2-lite --batch-size 1 32 --max-total-tokens 40000
  one_batch 150 deepseek-v3-8-layers --batch-size 1 32 --max-total-tokens 40000 --max-step-tokens 1024 \
    --max-mixed-step-tokens 1024 --feature +shared_expert_fusion
  experts deepseek-v2-lite --batch-size 1 32
  experts deepseek-v3-8-layers --batch-size 1 32 --max-step-tokens 1024 --max-mixed-step-tokens 1024
}

bench_op() {  # op row pattern
  step "bench $1 $2 $3" "${4:-45}" bench.log fathom bench op "$1" --row "$2" --case "$3" --device cuda --json "$OUT/bench.jsonl"
}
# The row that the op takes comes last: bench/compare counts the last line of a case.
bench() {
  bench_op fp8_block_gemm cluster_sm90 '!(*packed*)_m@(1|8|32)' 60
  bench_op fp8_block_gemm rings_sm90 '!(*packed*)_m128' 30
  bench_op fp8_block_gemm tile_sm90 '!(*packed*)_m@(1024|4096)' 60
  bench_op grouped_moe tile_sm90 'v@(3_tp8|2_lite)_tiled*' 60
  bench_op grouped_moe few_sm90 'v@(3_tp8|2_lite)_tiled_t@(1|8)' 30
  bench_op head_gemm mma 'v*' 40
  bench_op mla_decode sm90 '*' 45
  bench_op bf16_gemm few_sm90 '@(decode|llama_8b)_*_m@(8|16|32|64|128)' 60
  bench_op bf16_gemm resident 'decode_*_m@(8|16)' 30
  bench_op bf16_gemm gemv 'decode_*_m1' 30
  bench_op mha_prefill sm90 '*_t*k' 30
  bench_op gqa_decode split '*' 30
  local op
  for op in moe_gate moe_align fused_quant rms_norm rms_norm_quant expert_quant prefix_pack_fp8 silu_mul rope_append \
    mla_store mla_kv_append merge_states embedding sample token_logprob w8a8_gemm; do
    step "bench $op" 25 bench.log fathom bench op $op --device cuda --json "$OUT/bench.jsonl"
  done
}

smol() {
  local model=${SMOLLM2:-$WORK/smol.gguf}
  if [ ! -e "$model" ] && compgen -G '/tmp/smol/part*' >/dev/null; then cat /tmp/smol/part* >"$model"; fi
  if [ ! -e "$model" ]; then
    echo "SKIP smol: no model; carry its parts first" | tee -a "$OUT/summary.txt"
    return
  fi
  step "smollm2: tokens on both devices" 100 smol.log \
    python3 "$HERE/scripts/compare_devices.py" --program "$BIN/fathom" --model "$model" --tokens 32
}

SMALL='*mla_store*:*mla_kv_append*:*mla_gather*:*mla_expand*:*merge_states*:*head_gemm*bf16*:*moe_gate*t1:*fused_quant*t1'
SMALL+=':*fp8_block_gemm__tile*m1[25]*:*fp8_block_gemm__tile*m513:*fp8_block_gemm__cluster*m17:*fp8_block_gemm__cluster*m33:*fp8_block_gemm__rings*m65:*fp8_block_gemm__rings*m127'
SMALL+=':*bf16_gemm__gemv__decode_m1_*:*bf16_gemm__resident__decode_m[359]*:*bf16_gemm__few_sm90__decode_m9:*bf16_gemm__few_sm90__few_*:*bf16_gemm__tile_sm90__tile_*'
SMALL+=':*grouped_moe__few_sm90__tiled_*:*grouped_moe__tile_sm90__tiled_*:*mla_decode__sm90*b1_s1k*:*mla_decode__sm90__uneven*'
SMALL+=':*rms_norm_quant*t1:*expert_quant*t1:*moe_align*t1:*token_logprob*smollm2*:*w8a8_gemm__skinny*m1:*prefix_pack_fp8*odd*'
SMALL+=':*mha_prefill__sm90__odd:*mha_prefill__sm90__mla_bf16*:*gqa_decode__split__bf16_group7:*rms_norm*t1:*sample*smollm2'
sanitize() {
  local tool apart
  for tool in memcheck synccheck racecheck; do
    apart=
    [ $tool = racecheck ] && apart=':*mla_decode*'  # many reports, docs/kernels/mla_decode.md
    step "$tool of op cases" 60 sanitize.log compute-sanitizer --tool $tool \
      "$BIN/op_cuda_test" --gtest_brief=1 --gtest_filter="$SMALL:-$TESTS_OUT:*nano*:*v3_*$apart"
  done
  step "racecheck of mla_decode" 40 sanitize.log compute-sanitizer --tool racecheck \
    "$BIN/op_cuda_test" --gtest_brief=1 --gtest_filter='*mla_decode__sm90__uneven*'
  step "memcheck of a 16-token run" 60 sanitize.log compute-sanitizer --tool memcheck \
    "$BIN/fathom" generate -q -n 16 --model $NANO --device cuda "Hello"
}

# Kernels of decode steps, each alone: time by kernel. Early starts do not show here.
profile() {
  step "kernels of nano's steps" 60 profile.log bash "$0" kernels 400 400 $NANO --input-len 64
  step "kernels of V2-Lite's step" 90 profile.log bash "$0" kernels 3000 420 "$HERE/bench/models/deepseek-v2-lite" \
    --load-format dummy --context-length 4096 --input-len 1024
  step "kernels of the eight layers' step" 90 profile.log bash "$0" kernels 1000 130 \
    "$HERE/bench/models/deepseek-v3-8-layers" --load-format dummy --context-length 4096 --input-len 1024 \
    --max-step-tokens 1024 --max-mixed-step-tokens 1024
}
kernels() {  # skip count model flags
  local skip=$1 count=$2 model=$3
  shift 3
  ncu --clock-control none --metrics gpu__time_duration.sum --csv --launch-skip "$skip" --launch-count "$count" \
    "$BIN/fathom" bench one-batch --model "$model" --device cuda --disable-cuda-graph --output-len 12 "$@" |
    python3 -c '
import collections, csv, sys
rows = list(csv.DictReader(l for l in sys.stdin if l.startswith("\"")))
times = collections.defaultdict(list)
for r in rows:
    value = float(r["Metric Value"].replace(",", ""))
    times[r["Kernel Name"][:90]].append(value / (1e3 if r["Metric Unit"] in ("ns", "nsecond") else 1))
for name, t in sorted(times.items(), key=lambda x: -sum(x[1])):
    print(f"{sum(t):9.1f} us in {len(t):4d}, {sum(t) / len(t):7.2f} each  {name}")'
}

# What the warps of a kernel wait for between two instructions, in cycles, and what it reads: of rows that fall short.
stalls() {
  local op row case kernel
  while read -r op row case kernel; do
    step "stalls of $op $case $kernel" 30 stalls.log bash "$0" stall "$op" "$row" "$case" "$kernel"
  done <<'END'
fp8_block_gemm cluster_sm90 shared_gu_m32 multiply
fp8_block_gemm rings_sm90 shared_gu_m128 multiply
fp8_block_gemm tile_sm90 q_b_m4096 multiply
grouped_moe few_sm90 v3_tp8_tiled_t1 both_products
grouped_moe tile_sm90 v3_tp8_tiled_t4096 gate_up
grouped_moe tile_sm90 v3_tp8_tiled_t4096 down
grouped_moe tile_sm90 v2_lite_tiled_t4096 gate_up
mla_decode sm90 v3_tp8_b8_s4096 decode
mla_decode sm90 v3_whole_b1_s65536 decode
mla_decode sm90 v3_whole_b32_s4096 decode
mha_prefill sm90 mla_t4k attend
gqa_decode split llama_8b_b1_s1k decode
bf16_gemm few_sm90 decode_7168_2112_m8 multiply
sample cuda_stream full_law_deepseek_b256 sample_streams
END
}
stall() {  # op row case kernel
  local of=smsp__average_warps_issue_stalled warps= reason
  for reason in long_scoreboard barrier wait short_scoreboard membar gmma sleeping no_instruction math_pipe_throttle \
    mio_throttle lg_throttle; do
    warps+=,${of}_${reason}_per_issue_active.ratio
  done
  timeout 28 ncu --clock-control none --kill yes --launch-count 1 -k "regex:^$4\$" --csv --metrics \
    "gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,lts__t_bytes.sum,smsp__issue_active.avg.pct_of_peak_sustained_active$warps" \
    "$BIN/fathom" bench op "$1" --row "$2" --case "$3" --device cuda |
    python3 -c '
import csv, sys
print(*sys.argv[1:], ":", ", ".join("%s %s%s" % (r["Metric Name"].split("stalled_")[-1].replace("_per_issue_active.ratio", ""),
      r["Metric Value"], " " + r["Metric Unit"] if r["Metric Unit"] not in ("inst", "ratio", "") else "")
      for r in csv.DictReader(l for l in sys.stdin if l.startswith("\""))))' "$@"
}

peers() {
  if compgen -G 'build-device/wheels/*.whl' >/dev/null; then
    step "install wheels" 40 peers.log python3 -m pip install -q --no-index --no-deps --no-compile --target "$WORK/site" \
      build-device/wheels/*.whl
    PYTHONPATH=$WORK/site step deepgemm 150 peers.log \
      python3 "$HERE/bench/peers/deepgemm.py" --json "$OUT/peers.jsonl" --tokens 1,32,128,1024,4096 --seconds 120
  fi
  step "torch's kernels" 60 peers.log python3 "$HERE/bench/peers/torch_kernels.py" --json "$OUT/peers.jsonl"
  step "side by side" 10 peers.log python3 "$HERE/bench/compare" "$OUT/bench.jsonl" "$OUT/peers.jsonl"
}

run() {
  export WORK OUT BIN=$HERE/bin
  WORK=$(mktemp -d)
  mkdir -p "$OUT"
  if [ ! -d "$BIN" ]; then echo "run the script that 'pack' has packed" && exit 1; fi
  export PATH=$BIN:$PATH
  echo "commit $(cat "$HERE/commit")" | tee "$OUT/summary.txt"
  [ $# -gt 0 ] || set -- facts kit tests nano steps bench smol sanitize profile stalls peers
  local section
  for section in "$@"; do $section; done
  rm -rf "$WORK"
  echo "--- steps"; grep -h '^batch\|nodes' "$OUT"/steps.log "$OUT"/nano.log 2>/dev/null
  echo "--- failures"; grep -hA6 'Failure$' "$OUT"/tests.log 2>/dev/null | cut -c1-250 | head -60
  echo "--- stalls"; grep -h ' : ' "$OUT"/stalls.log 2>/dev/null
  echo "--- sanitizer"; grep -h 'SUMMARY' "$OUT"/sanitize.log 2>/dev/null
  echo "--- summary"; cat "$OUT/summary.txt"
  tar -C "$OUT" -cJf "$OUT/logs.tar.xz" $(cd "$OUT" && ls *.log) && rm "$OUT"/*.log  # few files come back
}

case ${1:-} in
  pack) shift && pack "$@" ;;
  smol-parts) shift && smol_parts "$@" ;;
  run) shift && run "$@" ;;
  shards | kernels | stall) "$@" ;;  # of a run's steps
  *) sed -n '2,20p' "$0" && exit 2 ;;
esac
