"""Members of families of notations for the rule `math`, and near misses of each family."""

RIGHT = {
    "marks around an answer": [
        *(("58", "58 \u2705"), ("58", "\u2192 58"), ("58", "=> 58"), ("58", "> **58**")),
        *(("58", "**58** \U0001f389"), ("58", "So, the sum is **58**!"), ("46", r"\boxed{\ 46\ }")),
        *(("46", r"\boxed{\underline{46}}"), ("46", r"\framebox{46}"), ("46", "Answer - 46")),
        *(("58", "The total is **58 apples**."), ("-5", "It is -5"), ("-5", "It is \u20135")),
    ],
    "other languages": [
        *(("46", "\u6700\u7ec8\u7b54\u6848\u662f 46\u3002"), ("46", "\u7b54\u6848\uff1a46")),
        *(("46", "\u041e\u0442\u0432\u0435\u0442: 46"), ("46", "La respuesta es 46.")),
        *(("2.5", "\u0662\u066b\u0665"), ("9876", "\u0669\u066c\u0668\u0667\u0666")),
        *(("1,2", "1\u30012"), ("12345678", "12.345.678"), ("12345678", "12_345_678")),
    ],
    "greek letters": [
        *(("\u03c3", r"\sigma"), (r"2\pi r", "2\u03c0r"), (r"\alpha", "alpha")),
        *((r"\mu_0", "mu_0"), (r"\frac{\lambda}{2}", "lambda/2"), (r"\Delta x", "Delta x")),
    ],
    "repeating decimals": [
        *(("2/3", r"0.666\ldots"), ("1/6", "0.1666..."), ("1/7", "0.142857142857...")),
        *(("5/11", r"0.\overline{45}"), (r"\pi", "3.14159265...")),
    ],
    "intervals": [
        *(("[0,1)", "[0;1["), ("(0,1]", "]0,1]"), ("(-2,2)", "|x|<2"), (r"|x| \le 2", "[-2,2]")),
        *((r"(-\infty,-2)\cup(2,\infty)", "|x|>2"), (r"\mathbb{R}\setminus\{2\}", r"x\ne 2")),
        *((r"\mathbb{R} \setminus \{2,1\}", r"(-\infty,1)\cup(1,2)\cup(2,\infty)"),),
        *((r"x<1 \lor x>2", "x<1 or x>2"),),
    ],
    "units": [
        *(("3 mA", "0.003 A"), ("2 kV", "2000 V"), ("5 J", "5 N m"), ("1 L", "1000 cm^3")),
        *(("4 hours 15 minutes", "4.25 hours"), ("5 ft 6 in", "66 inches"), ("Week 3", "3")),
        *(("3 million", "3000000"), ("2500000", "$2.5 million"), ("25 \u00b0C", "25 degrees C")),
        *(("\u00a5900", "900 yen"), ("8 \u03bcm", "8e-6 m"), ("72 km/h", "20 m/s")),
        *((r"30 \text{ miles per hour}", r"30\,\frac{\text{miles}}{\text{hour}}"),),
    ],
    "times": [
        *(("14:05", "2:05 PM"), ("9 p.m.", "21:00"), ("12:00 AM", "0:00"), ("7:30", "07:30")),
        *((r"11:15\text{ a.m.}", r"11{:}15 \text{ AM}"), ("3", "3 p.m.")),
    ],
    "names": [
        *(("(a,b)=(3,5)", "a=3, b=5"), ("(p,q)=(1,4)", "(q,p)=(4,1)"), ("y=2x+1", "2x-y+1=0")),
        *((r"\bar z", r"\overline{z}"), ("f(x)=2x", "y=2x"), ("Area = 5", "area = 5")),
        *((r"x=\frac{\pi}{6}+2k\pi", r"x=\frac{\pi}{6}+2n\pi,\ n \in \mathbb{Z}"),),
        *((r"m=5k", r"m = 5k \text{ for } k \in \mathbb{Z}"), ("C_1x+C_2", "c_1x+c_2")),
    ],
    "formulas": [
        *((r"\frac12", r"1 \over 2"), (r"{8 \choose 2}", "28"), ("C_{8}^{2}", "28")),
        *((r"\binom{n}{3}", r"\frac{n(n-1)(n-2)}{6}"), (r"\frac{(n+2)!}{n!}", "(n+2)(n+1)")),
        *((r"(-1)^{n+1}", r"-\cos(n\pi)"), (r"\sum_{k=1}^{5} k^2", "55"), ("binomial(8,2)", "28")),
        *((r"\sqrt[4]{y^3}", "y^{3/4}"), (r"5\ln t", r"\ln t^5"), (r"s\sqrt{3}", r"\sqrt{3s^2}")),
        *((r"\frac{1}{\sqrt{m}}", r"\sqrt{1/m}"), (r"-\sqrt[3]{5}", "(-5)^{1/3}")),
        *((r"1101_2", r"1101_{\text{two}}"), ("212_{3}", "212_{(3)}"), ("2A3_{12}", "2A3_{12}")),
    ],
    "words": [
        *(("square", r"\mathbf{square}"), ("-7", r"\text{minus }7"), ("yes", r"\textbf{Yes}")),
        *(("\u0915\u093e\u0920\u092e\u093e\u0921\u094c\u0902",) * 2, ("\u05e9\u05c1\u05b8",) * 2),
    ],
    "letters": [
        *(("B", "B because it moves."), ("B", "I would pick B."), ("B", "So, B is correct.")),
        *(("B", "From the above, it must be (B)."), ("B", "\u2705 B"), ("B", "<B>")),
    ],
}  # fmt: skip
WRONG = {
    "marks around an answer": [
        *(("58", "> 58"), ("58", "58 \u274c"), ("58", "- 58"), ("58", "58!")),
    ],
    "denials": [
        *(("42", r"\boxed{42} is incorrect."), ("42", r"$\boxed{42}$ is not right.")),
        *(("42", r"\boxed{41} and \boxed{42}"), ("42", r"\(\boxed{41}\) or \(\boxed{42}\)")),
    ],
    "repeating decimals": [
        *(("0.666", "0.666..."), ("0.33", r"0.33\ldots"), ("1/3", "0.34..."), ("3.14", "3.14...")),
        *(("1,2,3", r"1,2,3,\ldots"),),
    ],
    "intervals": [
        *(("(0,1)", "]0,1]"), ("[-2,2]", "|x|<2"), (r"x\ne 2", r"x\ne 3"), (r"x\ne 2", r"y\ne 2")),
        *((r"x<1 \lor x>2", "x<1"), (r"x<1 \lor x>2", "x<1 or y>2"), ("x=1 or x=2", "x=1 or y=2")),
        *((r"x=1 \lor x=2", r"x=1 \land x=2"), ("1, 2", "x=1 and not x=2")),
    ],
    "units": [
        *(("3 kPa", "3 Pa"), ("5 N", "5 kg m/s"), ("2 hours 30 minutes", "2.3 hours")),
        *(("1.5 million", "1.5 billion"), ("25 \u00b0C", "25 \u00b0F"), ("\u00a5500", "$500")),
        *(("Week 3", "Day 3"), ("1 L", "1 cm^3")),
    ],
    "times": [
        *(("14:05", "2:05"), ("14:05", "2:05 AM"), ("9 p.m.", "9 a.m."), ("7:05", "7:5")),
        *(("7:05", "7:50"), ("10 a.m.", "10 b.m."), ("10 a.m.", "10 p.m.")),
    ],
    "names": [
        *(("(p,q)=(1,4)", "(q,p)=(1,4)"), ("(1,4)", "(y,x)=(1,4)"), ("x=3, y=4", "y=3, y=4")),
        *(("mean=2", "median=2"), ("f(x)=2x", "f(y)=2x"), ("f(x)=2x", "g(x)=2x")),
        *((r"x=\pm 3", r"y=\pm 3"), (r"\angle A=30", r"\angle B=30"), (r"\bar x", "x")),
        *((r"\hat x", r"\bar x"), ("A'", "A"), ("A", "A'"), ("A'", "A''"), (r"\vec v", "v")),
        *((r"\overline{A}B", "AB"), (r"\frac{dy}{dx}=2x", r"\frac{dx}{dy}=2x")),
        *(("m=5k", r"m=5k, k\in\mathbb{N}"), (r"x=\pi+k\pi", r"x=\pi+2n\pi")),
        *((r"\frac{\partial f}{\partial x}=2", r"\frac{\partial f}{\partial y}=2"),),
    ],
    "formulas": [
        *((r"\sqrt{x^2}", "x"), (r"2\ln x", r"\ln x^2"), ("|r|", "r"), ("n!", "(n+1)!")),
        *((r"13 \in A", r"13 \notin A"), (r"7 \in S", r"7 \in T"), (r"2\mid n", r"2\nmid n")),
        *((r"x \equiv 3 \pmod 7", r"x \equiv 3 \pmod 8"), (r"x \equiv 3 \pmod 7", "x = 3")),
        *(("3A7_{16}", "3A7_{15}"), (r"\binom{n}{2}", r"\binom{n}{3}"), ("C_{8}^{2}", "C_{8}^{3}")),
        *((r"A \cup B", r"A \cap B"), (r"p \lor q", r"p \land q"), ("p,q", r"p \lor q")),
        *((r"\sum_{k=1}^{5} k", r"\sum_{k=1}^{6} k"), (r"\int_0^1 x dx", r"\int_0^2 x dx")),
        *((r"2\mid n", r"2\mid n^2+7"), ("x^2", "x^{2"), ("e^x", r"\frac{d}{dx}e^x")),
    ],
    "letters": [
        *(("B", "B is wrong."), ("B", "I would not pick B."), ("B", "B because C is odd.")),
        *(("B", "B or D"), ("B", "If B then D")),
    ],
}  # fmt: skip
