"""What a compiled program says about a slice: memory, traffic, time and cost.

    the text of a program -> hlo.Module -> traffic.Cost -> roofline.Time -> answer.Answer -> table

`chips` holds what vendors publish about their chips, `models` the sizes of published models, and
`products` and `wires` read single instructions.  Nothing here needs a device, or starts one.
"""
