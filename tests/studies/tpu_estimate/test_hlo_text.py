import re

import pytest

from cl2cm_jax.studies.tpu_estimate import cost, hlo
from cl2cm_jax.studies.tpu_estimate.hlo import Array, parse, trip_count

LOOP = """HloModule made_up, is_scheduled=true, num_partitions=4

%less (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %c = pred[] compare(%a, %b), direction=LT
}

%condition (state: (s32[], f32[8,16], f32[5,16,16])) -> pred[] {
  %state = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %limit = s32[] constant(5)
  ROOT %on = pred[] fusion(%i, %limit), kind=kLoop, calls=%less
}

%body (state.1: (s32[], f32[8,16], f32[5,16,16])) -> (s32[], f32[8,16], f32[5,16,16]) {
  %state.1 = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%state.1), index=1
  %all = f32[5,16,16]{2,1,0} get-tuple-element(%state.1), index=2
  %one = s32[] constant(1)
  %next = s32[] add(%i.1, %one)
  %zero = s32[] constant(0)
  %w = f32[1,16,16]{2,1,0} dynamic-slice(%all, %i.1, %zero, %zero), dynamic_slice_sizes={1,16,16}
  %w.1 = f32[16,16]{1,0} bitcast(%w)
  %y = f32[8,16]{1,0} dot(%x, %w.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %s = f32[8,16]{1,0} all-reduce(%y), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%less
  ROOT %t = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) tuple(%next, %s, %all)
}

ENTRY %main (x: f32[8,16], w: f32[5,16,16]) -> f32[8,16] {
  %x.1 = f32[8,16]{1,0} parameter(0), metadata={op_name="x, (y) = 1"}
  %w.2 = f32[5,16,16]{2,1,0:T(8,128)S(1)} parameter(1)
  %start = s32[] constant(0)
  %init = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) tuple(%start, %x.1, %w.2)
  %loop = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) while(%init), condition=%condition, body=%body
  ROOT %out = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""


def of(text: str) -> tuple[cost.Event, ...]:
    return cost.events(parse(text))


def test_instructions_have_shapes_memory_spaces_and_attributes():
    module = parse(LOOP)
    assert (module.entry, module.partitions) == ("main", 4)
    main = module.computations["main"]
    assert main["w.2"].arrays == (Array("f32", (5, 16, 16), 1),) and main["x.1"].arrays[0].size == 8 * 16 * 4
    assert len(main["loop"].arrays) == 3 and main["loop"].operands == (main["init"],) and main["out"].is_root
    dot = module.computations["body"]["y"]
    assert (dot.opcode, dot.attribute("lhs_contracting_dims"), dot.attribute("nothing")) == ("dot", "{1}", "")
    assert module.root("body").name == "t"
    with pytest.raises(ValueError, match="ENTRY"):
        parse("HloModule empty\n")


def test_a_loop_body_is_multiplied_by_its_trip_count():
    work = cost.total(of(LOOP))
    assert work.flops == 5 * 2 * 8 * 16 * 16
    slice_, sum_ = 2 * 16 * 16 + 3, 3  # elements: slice read and written, and its index; the counter's sum
    product = 8 * 16 + 16 * 16 + 8 * 16
    assert work.size == 5 * 4 * (slice_ + sum_ + product)
    found = cost.collectives(of(LOOP))
    assert found == [(5, cost.Collective("all-reduce", 8 * 16 * 4, 2, "1", overlaps=False))]


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (("constant(5)", "constant(7)"), 7),
        (("%start = s32[] constant(0)", "%start = s32[] constant(2)"), 3),
        (("%one = s32[] constant(1)", "%one = s32[] constant(2)"), 3),
        (("direction=LT", "direction=LE"), 6),
        (("direction=LT", "direction=GT"), None),
        (("%next = s32[] add(", "%next = s32[] multiply("), None),
        (("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"11"}}'), 11),
    ],
)
def test_trip_counts_follow_from_start_limit_and_step(change: tuple[str, str], count: int | None):
    text = LOOP.replace(*change)
    assert text != LOOP
    module = parse(text)
    assert trip_count(module, module.computations["main"]["loop"]) == count
    assert cost.unknown_loops(cost.events(module)) == (count is None)
    assert cost.total(cost.events(module)).flops == (1 if count is None else count) * 2 * 8 * 16 * 16


def test_trip_counts_of_nested_loops_multiply():
    outer = LOOP.replace("ENTRY %main", "%inner").replace("HloModule made_up", "HloModule nested")
    outer += """
%c2 (p: (s32[], f32[8,16], f32[5,16,16])) -> pred[] {
  %p = (s32[], f32[8,16], f32[5,16,16]) parameter(0)
  %n = s32[] get-tuple-element(%p), index=0
  %three = s32[] constant(3)
  ROOT %on2 = pred[] compare(%n, %three), direction=LT
}

%b2 (q: (s32[], f32[8,16], f32[5,16,16])) -> (s32[], f32[8,16], f32[5,16,16]) {
  %q = (s32[], f32[8,16], f32[5,16,16]) parameter(0)
  %n2 = s32[] get-tuple-element(%q), index=0
  %x2 = f32[8,16] get-tuple-element(%q), index=1
  %w3 = f32[5,16,16] get-tuple-element(%q), index=2
  %y2 = f32[8,16] call(%x2, %w3), to_apply=%inner
  %one2 = s32[] constant(1)
  %n3 = s32[] add(%one2, %n2)
  ROOT %t2 = (s32[], f32[8,16], f32[5,16,16]) tuple(%n3, %y2, %w3)
}

ENTRY %whole (a: f32[8,16], b: f32[5,16,16]) -> f32[8,16] {
  %a = f32[8,16] parameter(0)
  %b = f32[5,16,16] parameter(1)
  %nil = s32[] constant(0)
  %s2 = (s32[], f32[8,16], f32[5,16,16]) tuple(%nil, %a, %b)
  %l2 = (s32[], f32[8,16], f32[5,16,16]) while(%s2), condition=%c2, body=%b2
  ROOT %r = f32[8,16] get-tuple-element(%l2), index=1
}
"""
    schedule = of(outer)
    assert cost.total(schedule).flops == 3 * 5 * 2 * 8 * 16 * 16
    assert [times for times, _ in cost.collectives(schedule)] == [15]


CONVOLUTION = """HloModule c

ENTRY %e (a: f32[{a}], b: f32[{b}]) -> f32[{out}] {{
  %a = f32[{a}] parameter(0)
  %b = f32[{b}] parameter(1)
  ROOT %o = f32[{out}] convolution(%a, %b), {rest}
}}
"""


@pytest.mark.parametrize(
    ("a", "b", "out", "rest", "products"),
    [
        ("8,32", "32,64", "8,64", "dim_labels=bf_io->bf", 8 * 32 * 64),
        ("32,8", "32,64", "8,64", "dim_labels=fb_io->bf", 8 * 32 * 64),
        # a batch of six products (4, 5) x (5, 7), as a TPU's compiler writes it
        ("6,4,5", "6,5,7", "6,4,7", "window={size=6 stride=5 pad=0_0 lhs_dilate=6}, dim_labels=0bf_0io->0bf", 6 * 140),
        ("1,10,10,3", "3,3,3,8", "1,8,8,8", "window={size=3x3}, dim_labels=b01f_01io->b01f", 64 * 9 * 3 * 8),
        ("1,4,3", "3,3,8", "1,4,8", "window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f", (2 + 3 + 3 + 2) * 3 * 8),
    ],
)
def test_flops_of_convolutions(a: str, b: str, out: str, rest: str, products: int):
    plain = of(CONVOLUTION.format(a=a, b=b, out=out, rest=rest))
    assert cost.total(plain)[:2] == (2 * products, 2 * products)
    exact = of(CONVOLUTION.format(a=a, b=b, out=out, rest=f"{rest}, operand_precision={{highest,highest}}"))
    assert cost.total(exact)[:2] == (2 * products, 6 * 2 * products)


FUSED = """HloModule f

%update (p0: f32[100,64], p1: f32[64], p2: s32[]) -> f32[100,64] {
  %p0 = f32[100,64] parameter(0)
  %p1 = f32[64] parameter(1)
  %row = f32[1,64] bitcast(%p1)
  %p2 = s32[] parameter(2)
  %nil = s32[] constant(0)
  ROOT %u = f32[100,64] dynamic-update-slice(%p0, %row, %p2, %nil)
}

%pick (q0: f32[100,64], q1: s32[]) -> f32[64] {
  %q0 = f32[100,64] parameter(0)
  %q1 = s32[] parameter(1)
  %nil.1 = s32[] constant(0)
  %taken = f32[1,64] dynamic-slice(%q0, %q1, %nil.1), dynamic_slice_sizes={1,64}
  ROOT %r = f32[64] bitcast(%taken)
}

ENTRY %e (a: f32[100,64], b: f32[64], i: s32[]) -> f32[64] {
  %a = f32[100,64] parameter(0)
  %b = f32[64] parameter(1)
  %i = s32[]{:S(6)} parameter(2)
  %one = f32[100,64] fusion(%a, %b, %i), kind=kLoop, calls=%update
  %near = f32[64]{0:S(1)} fusion(%one, %i), kind=kLoop, calls=%pick
  %start = (f32[64]{0}, f32[64]{0:S(1)}, u32[]{:S(2)}) copy-start(%near)
  ROOT %end = f32[64] copy-done(%start)
}
"""


def test_hbm_traffic_counts_only_the_used_part_of_operands():
    # update: one row read, one written; pick: one row read into on-chip memory; copy back: one row written
    assert cost.total(of(FUSED)).size == 4 * 64 * 4
    everything = re.sub(r"S\(\d\)", "", FUSED)
    assert cost.total(of(everything)).size > 4 * 64 * 4


EXCHANGES = """HloModule x, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}

%begin (p: f32[4,16]) -> (f32[4,16], f32[32,16], u32[]) {
  %p = f32[4,16] parameter(0)
  %g = f32[32,16] all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %c = (f32[4,16], f32[32,16], u32[]) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%beside (p.1: f32[4,16], w: f32[16,16]) -> f32[4,16] {
  %p.1 = f32[4,16] parameter(0)
  %w = f32[16,16] parameter(1)
  %g.1 = f32[32,16] all-gather(%p.1), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %d = f32[4,16] dot(%p.1, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%finish (p.2: f32[4,16]) -> f32[32,16] {
  %p.2 = f32[4,16] parameter(0)
  %g.2 = f32[32,16] all-gather(%p.2), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %c.2 = f32[32,16] custom-call(%p.2, %g.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter (p.3: f32[32,16]) -> f32[4,16] {
  %p.3 = f32[32,16] parameter(0)
  %r.3 = f32[32,16] all-reduce(%p.3), channel_id=9, replica_groups=mesh['data'=4,'fsdp'=2] {'data'}, to_apply=%add
  %nil = s32[] constant(0)
  ROOT %s.3 = f32[4,16] dynamic-slice(%r.3, %nil, %nil), dynamic_slice_sizes={4,16}
}

ENTRY %e (a: f32[4,16], w: f32[16,16]) -> f32[32,16] {
  %a = f32[4,16] parameter(0)
  %w = f32[16,16] parameter(1)
  %one = (f32[4,16], f32[32,16], u32[]) fusion(%a), kind=kCustom, calls=%begin
  %two = f32[4,16] fusion(%a, %w), kind=kCustom, calls=%beside
  %three = f32[32,16] fusion(%a), kind=kCustom, calls=%finish
  %four = f32[4,16] fusion(%three), kind=kCustom, calls=%all-reduce-scatter
  %five = f32[4,16] all-reduce-start(%four), replica_groups={}, to_apply=%add
  %six = f32[4,16] dot(%two, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %seven = f32[4,16] all-reduce-done(%five)
  %eight = f32[4,16] collective-permute(%seven), source_target_pairs={{0,1},{1,0}}
  ROOT %nine = f32[32,16] all-gather(%eight), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
}
"""


def test_collectives_are_counted_once_with_group_and_overlap():
    schedule = of(EXCHANGES)
    small, large = 4 * 16 * 4, 32 * 16 * 4
    assert [(c.kind, c.size, c.group, c.overlaps) for _, c in cost.collectives(schedule)] == [
        ("all-gather", large, 8, True),
        ("reduce-scatter", large, 4, False),
        ("all-reduce", small, 8, True),
        ("collective-permute", small, 2, False),
        ("all-gather", large, 8, False),
    ]
    assert cost.total(schedule).flops == 2 * 2 * 4 * 16 * 16
    begun = {one.channel for event in schedule for one in event.begins if one.overlaps}
    assert begun == {channel for event in schedule for channel in event.ends}


def test_the_result_of_an_overlapping_collective_is_written_once():
    """It is a result of every fusion that it overlaps with."""
    carried = EXCHANGES.replace("w: f32[16,16]) -> f32[4,16] {", "w: f32[16,16]) -> (f32[4,16], f32[32,16]) {")
    carried = carried.replace("ROOT %d = f32[4,16] dot", "%d = f32[4,16] dot")
    root = "ROOT %t = (f32[4,16], f32[32,16]) tuple(%d, %g.1)"
    carried = carried.replace("rhs_contracting_dims={0}\n}", f"rhs_contracting_dims={{0}}\n  {root}\n}}")
    carried = carried.replace("%two = f32[4,16] fusion", "%two = (f32[4,16], f32[32,16]) fusion")
    carried = carried.replace("  %six", "  %first = f32[4,16] get-tuple-element(%two), index=0\n  %six")
    carried = carried.replace("dot(%two, %w)", "dot(%first, %w)")
    assert carried.count("tuple(%d, %g.1)") == 1
    assert cost.total(of(carried)).size == cost.total(of(EXCHANGES)).size


def test_a_collective_overlaps_with_a_loop():
    loop = LOOP.replace("HloModule made_up, is_scheduled=true, num_partitions=4\n", "").replace("ENTRY %main", "%runs")
    loop = loop.replace("%x = f32[8,16]{1,0} get-tuple-element(%state.1), index=1", "%x = f32[8,16]{1,0} " + BESIDE)
    text = EXCHANGES.replace("ENTRY %e", loop + "\nENTRY %e").replace(
        "%two = f32[4,16] fusion(%a, %w), kind=kCustom, calls=%beside",
        "%two = f32[4,16] call(%a, %w), to_apply=%runs",
    )
    found = cost.collectives(of(text))
    assert [times for times, one in found if one.kind == "all-gather" and one.overlaps] == [1]


BESIDE = "fusion(%state.1, %state.1), kind=kCustom, calls=%beside"


def test_collective_kinds_and_element_sizes():
    assert set(cost.KINDS) == {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
    assert hlo.Array("token", (), 0).size == 0 and hlo.Array("s4", (3,), 0).size == 2
