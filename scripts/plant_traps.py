#!/usr/bin/env python3
"""Plants the traps of the DeepSeek architecture in the sources, one at a time, and expects a test to fail.

Usage: plant_traps.py [NAME...]   (all traps when none is named; --preset cpu-release)

Each trap is a few words of one source file. The test program is built with it and run; a test that still passes is a
hole in the tests. Sources are put back whatever happens. Exit status 1 when a trap was not caught.
"""
import argparse
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDENS = "Prompts/DeepseekGolden.*/1:Prompts/DeepseekGolden.*/4:DeepseekInternals.*:All/GoldenTest.LogitsOfEveryPosition/deepseek*"
MODEL = ("model_test", "tests/model_test", GOLDENS)
PROMOTION = ("ops_test", "ops_test", "Fp8PromotionTest.*")

LAYERS, MODELS, OPS = "fathom/layers/", "fathom/models/", "fathom/ops/"
NORMALISE = """// one head for all
  for (int64_t t = 0; t < T; ++t) {
    float square = 0;
    float* row = k_rope.row(t).as<float>();
    for (int64_t i = 0; i < R; ++i) square += row[i] * row[i];
    for (int64_t i = 0; i < R; ++i) row[i] /= __builtin_sqrtf(square / static_cast<float>(R));
  }"""
# The mean of squares runs over the latent and the rope key, which follows it.
WIDE_NORM = """float wide = squares.total();
  for (int64_t i = L; i < L + 64; ++i) wide += static_cast<float>(x[i]) * static_cast<float>(x[i]);
  const VF scale = hn::Set(F32(), 1.0f / std::sqrt(wide / static_cast<float>(L + 64) + eps));"""
QUANTISED_VALUES = """for (int64_t i = 0; i < L; ++i)
    latent[i] = static_cast<T>(f8e4m3_to_float(float_to_f8e4m3(static_cast<float>(latent[i]))));
  copy_values(latent, L, to);"""
BF16_ROUTER = """router_(exec, x, gate.logits);
  for (int64_t i = 0; i < gate.logits.elements(); ++i) {
    float& logit = gate.logits.as<float>()[i];
    logit = bf16_to_float(float_to_bf16(logit));
  }"""
TRUNCATED = """const auto sum = hn::MulAdd(sums[v][t], hn::Set(d, scale), hn::Load(d, to));
        const U32 du;
        hn::Store(hn::BitCast(d, hn::And(hn::BitCast(du, sum), hn::Set(du, 0xfffffc00u))), d, to);"""

# name: (file, what stands there, what is planted, the tests that must fail)
TRAPS = {
    "rope key normalised": (
        LAYERS + "mla_attention.cc", "// one head for all, not normalised", NORMALISE, MODEL),
    "latent norm over the rope key too": (
        OPS + "attention/mla_store_simd.cc", "const VF scale = hn::Set(F32(), 1.0f / std::sqrt(squares.total() / "
        "static_cast<float>(L) + eps));", WIDE_NORM, MODEL),
    "values quantised where keys are read": (
        OPS + "attention/mla_store_simd.cc", "copy_values(latent, L, to);", QUANTISED_VALUES, MODEL),
    "router logits in BF16": (LAYERS + "moe.cc", "router_(exec, x, gate.logits);", BF16_ROUTER, MODEL),
    "rope of halves": (
        OPS + "attention/mla_store_simd.cc", "RopePairs::adjacent", "RopePairs::halves", MODEL),
    "bias in the expert weights": (
        OPS + "moe/moe_gate_select.cc", "p[chosen[i]] / divisor", "b[chosen[i]] / divisor", MODEL),
    "router bias ignored": (LAYERS + "moe.cc", "gate.bias = score_bias_", "gate.bias = {}", MODEL),
    "excluded groups filled with 0": (
        OPS + "moe/moe_gate_select.cc", "std::fill_n(b + g * width, width, kOut)",
        "std::fill_n(b + g * width, width, 0.0f)", MODEL),
    "group limit ignored": (
        OPS + "moe/moe_gate_select.cc", "if (args.groups > 1)", "if (args.groups > 1000)", MODEL),
    "group score by maximum in V3": (
        MODELS + "deepseek_config.cc", "GroupScore::top2_sum", "GroupScore::max", MODEL),
    "routed scale applied twice": (
        MODELS + "deepseek_layer.cc", ".scale = moe.scale}", ".scale = moe.scale * moe.scale}", MODEL),
    "routed scale missing": (
        MODELS + "deepseek_layer.cc", ".scale = moe.scale}", ".scale = 1.0f}", MODEL),
    "shared expert missing": (LAYERS + "moe.cc", ".addend = shared", ".addend = {}", MODEL),
    "softmax scale of the latent width": (
        MODELS + "deepseek_layer.cc", "config.mla->nope_dim + config.mla->rope_dim)",
        "config.mla->latent + config.mla->rope_dim)", MODEL),
    "mscale once in the softmax scale": (
        MODELS + "deepseek_layer.cc", "temperature * temperature /", "temperature /", MODEL),
    "mscale in cos and sin": (
        MODELS + "rope_table.cc", "config.rope.attention_scale(config.rope.mscale) /\n", "1.0 /\n", MODEL),
    "YaRN off": (
        MODELS + "rope_table.cc", "if (rope.scaling == RopeScaling::yarn)",
        "if (rope.scaling == RopeScaling::yarn && rope.theta < 0)", MODEL),
    "weight_scale_inv divides": (
        "fathom/weights/loader_fp8.cc", "ops::load_element(from, k) * element_scale",
        "ops::load_element(from, k) / element_scale", MODEL),
    "hidden state before embedding in eh_proj": (
        MODELS + "deepseek_nextn.cc", "token_norm_(exec, stream.x, pair.slice(1, 0, C));\n"
        "  hidden_norm_(exec, hidden, pair.slice(1, C, C));",
        "token_norm_(exec, stream.x, pair.slice(1, C, C));\n"
        "  hidden_norm_(exec, hidden, pair.slice(1, 0, C));", MODEL),
    "no promotion to f32": (
        OPS + "gemm/fp8_panel-inl.h",
        "hn::Store(hn::MulAdd(sums[v][t], hn::Set(d, scale), hn::Load(d, to)), d, to);", TRUNCATED, PROMOTION),
    "one scale for a whole row": (
        OPS + "gemm/fp8_panel-inl.h", "w_scale[b] * x_scale", "w_scale[0] * x_scale", PROMOTION),
}


def failures(preset, target, program, tests):
    """Names of the tests that fail as the sources stand; None when all pass."""
    build = subprocess.run(
        ["cmake", "--build", "--preset", preset, "--target", target], cwd=ROOT, capture_output=True, text=True)
    if build.returncode:
        raise RuntimeError("does not build:\n" + build.stdout[-1500:])
    test = subprocess.run(
        [ROOT / "build" / preset / program, f"--gtest_filter={tests}", "--gtest_brief=1"], cwd=ROOT,
        capture_output=True, text=True, timeout=600)
    if "0 tests from 0 test suites ran" in test.stdout:
        raise RuntimeError("no test ran")
    if not test.returncode:
        return None
    lines = [line.split("]")[1].split(",")[0] for line in test.stdout.splitlines() if "FAILED  ]" in line]
    return sorted({line.split("(")[0].strip() for line in lines}) or ["a crash"]


def run(preset, trap):
    """caught, MISSED, or what went wrong."""
    file, before, after, (target, program, tests) = trap
    path = ROOT / file
    source = path.read_text()
    if source.count(before) < 1:
        return "the source has changed: nothing to replace"
    path.write_text(source.replace(before, after))
    try:
        failed = failures(preset, target, program, tests)
        return f"caught by {len(failed)}: {', '.join(failed)}" if failed else "MISSED"
    except RuntimeError as error:
        return str(error)
    finally:
        path.write_text(source)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--preset", default="cpu-release")
    options = parser.parse_args()
    missed = 0
    for tests in {trap[3] for trap in TRAPS.values()}:
        if failed := failures(options.preset, *tests):
            sys.exit(f"without any trap: {', '.join(failed)} fail")
    for name in options.names or TRAPS:
        start = time.monotonic()
        verdict = run(options.preset, TRAPS[name])
        missed += not verdict.startswith("caught")
        print(f"{name:<42} {verdict}  ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{missed} not caught")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
