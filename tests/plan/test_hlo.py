"""The reading of a compiled program, on a text small enough to count by hand."""

from promedical_jax.plan.hlo import Collective, read

TEXT = """HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (input: bf16[64,32]) -> bf16[8,32] {
  %input = bf16[64,32]{1,0} parameter(0)
  %all-reduce.5 = bf16[64,32]{1,0} all-reduce(%input), channel_id=3, to_apply=%add, metadata={op_name="jit(step)/grad"}
  ROOT %slice = bf16[8,32]{1,0} dynamic-slice(%all-reduce.5, %zero), dynamic_slice_sizes={8,32}
}

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %m = f32[4]{0} multiply(%p, %p), backend_config={"estimated_cycles":"999999"}
}

%bound (s: (s32[], f32[4])) -> pred[] {
  %s = (s32[], f32[4]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] constant(36)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%body (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]) parameter(0)
  %w = bf16[1,64,32]{2,1,0:T(8,128)(2,1)} all-gather(%part), channel_id=1, dimensions={1}, metadata={op_name="jit(step)/while/body/reshard"}
  %f = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="a"}, backend_config={"window_config":{"estimated_cycles":"100","bounds":[]}}
  %g = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"100"}
  %r = bf16[8,32]{1,0} fusion(%f), kind=kCustom, calls=%all-reduce-scatter.1, backend_config={"estimated_cycles":"7"}
  %splash_fwd.2 = f32[4]{0} custom-call(%f), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":
}}, metadata={op_name="a text that the compiler breaks after a brace"}
  ROOT %t = (s32[], f32[4]) tuple(%j, %f)
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %start = (bf16[8,16]{1,0}, bf16[64,16]{1,0}) all-gather-start(%a), channel_id=9, metadata={op_name="jit(step)/embed"}
  %done = bf16[64,16]{1,0} all-gather-done(%start)
  %loop = (s32[], f32[4]) while(%init), condition=%bound, body=%body
  ROOT %out = f32[4]{0} add(%a, %a), backend_config={"estimated_cycles":"50"}
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_a_fusion_once_at_its_call() -> None:
    reading = read(TEXT)
    assert reading.cycles == 50 + 36 * (100 + 100 + 7)
    assert reading.kernels == {"splash_fwd": 36}


def test_what_travels_is_found_wherever_it_stands() -> None:
    assert set(read(TEXT).collectives) == {
        Collective("all-gather", "bf16[1,64,32]", 64 * 32 * 2, 36, 1, "jit(step)/while/body/reshard"),
        Collective("reduce-scatter", "bf16[64,32]", 64 * 32 * 2, 36, 1, "jit(step)/grad"),
        Collective("all-gather", "bf16[64,16]", 64 * 16 * 2, 1, 0, "jit(step)/embed"),
    }
