r"""The rule `math`: answers that say what the reference says, near misses, and attacks.

SAME has answers that must be right; OTHER has answers that must be wrong, however near they come;
the policy behind the disputed ones is in docs/rewards.md.  HOSTILE has answers made to cost time
or memory, or to reach the grader.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlvr_jax.host import rules

SAME = [
    # numbers
    *(("1000", "1,000"), ("1000", "1{,}000"), ("1,000", "1000"), ("1000", "$1,000")),
    *(("1000", r"1\,000"),),
    *(("1000", r"\$1,000"), ("1000", "1000.0"), ("1234567", "1,234,567"), ("1234567", "1 234 567")),
    *(("1/2", r"\tfrac12"), ("1/2", r"\dfrac{1}{2}"), ("1/2", "0.5"), (r"\frac{1}{2}", "1/2")),
    *(("3/4", "0.75"), (r"\frac{3}{4}", "3/4"), ("0.5", r"\frac12"), ("-1/2", r"-\frac{1}{2}")),
    *((r"-\frac{1}{2}", r"\frac{-1}{2}"), (r"\frac{2}{4}", r"\frac12"), ("7/2", "3 1/2")),
    *(("7/2", r"3\frac{1}{2}"), ("7/2", "3\u00bd"), ("0.25", ".25"), ("42", "42."), ("42", "+42")),
    *(("42", "\uff14\uff12"), ("42", "\u0664\u0662"), ("-42", "\u221242"), ("-42", "\u201342")),
    *(("1000", "10^3"), ("1000", "10^{3}"), ("1000", "1e3"), ("120000", r"1.2 \times 10^5")),
    *(("120000", "1.2\xd710^5"), ("120000", "1.2e5"), ("120000", "1.2x10^5")),
    *(("120000", "1.2*10^5"),),
    *((r"1.2 \times 10^{5}", "120000"), ("0.00012", r"1.2\times10^{-4}"), ("3.14", "3,14")),
    *(("0.5", "0,5"), ("1000.5", "1.000,50"), ("2^10", "1024"), ("1024", "2**10"), ("6", "3!")),
    *(("10", r"\binom{5}{2}"), ("0.3333333333", "1/3"), ("50%", "0.5"), (r"50\%", r"50\%")),
    *(("0.5", "50%"),),
    *(("50%", "50 percent"), ("1/2004!", r"\frac{1}{2004!}"), ("2^{99}", "2^99")),
    *(("10^20", "10^{20}"),),
    # radicals, powers, constants
    *((r"\frac{\sqrt{3}}{3}", r"1/\sqrt{3}"), (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt 3}")),
    *((r"\sqrt{2}", "2^{1/2}"), (r"\sqrt{8}", r"2\sqrt{2}"), (r"2\sqrt2", "2\u221a2")),
    *((r"\sqrt2", "sqrt(2)"),),
    *((r"\sqrt[3]{8}", "2"), (r"\pi", "\u03c0"), (r"2\pi", "2pi"), (r"\frac{\pi}{4}", "pi/4")),
    *((r"\ln 8", r"3\ln 2"), (r"\log_2 8", "3"), ("e^2", "e*e")),
    *((r"\sin 30^\circ", r"\sin(30^\circ)"),),
    *((r"\sqrt{5+2\sqrt6}", r"\sqrt2+\sqrt3"), ("3.14159265", r"\pi"), (r"\pi", "3.14159265")),
    *((r"\frac{1+\sqrt5}{2}", "(1+sqrt(5))/2"), (r"-\sqrt{3}", r"-\sqrt3")),
    *((r"\sqrt{\frac12}", r"\frac{\sqrt2}{2}"),),
    *((r"\infty", "\u221e"), (r"-\infty", r"-\infty"), (r"\cos\frac{\pi}{3}", "1/2")),
    *(("0", r"\sin \pi"),),
    # formulas
    *(("(x-1)(x+1)", "x^2-1"), ("x^2-1", "(x-1)(x+1)"), ("x^2 - 1", "x\xb2-1")),
    *(("2x+1", "1 + 2x"),),
    *(("2x", "f(x)=2x"), ("f(x)=2x", "2x"), ("f(x)=2x", "y=2x"), ("y=2x+1", "2x+1")),
    *(("a^2+2ab+b^2", "(a+b)^2"),),
    *(("x/2", r"\frac{x}{2}"), ("x/2", "0.5x"), (r"\frac{1}{x+1}", "(x+1)^{-1}"), ("2i+1", "1+2i")),
    *(("1+2i", "2i + 1"), ("i", "i"), ("-1", "i^2"), ("x^2+y^2=1", "x^2+y^2-1=0")),
    *(("y=2x+1", "y = 1+2x"),),
    *(("x^2 + C", "x^2+C"), (r"\sin^2 x", r"(\sin x)^2"), (r"\tan x", r"\frac{\sin x}{\cos x}")),
    *(("|x|", r"\left|x\right|"),),
    *(("e^{-x}", r"\frac{1}{e^x}"), (r"\theta/2", r"\frac{\theta}{2}"), ("xy", "yx")),
    *(("x_1+x_2", "x_{2}+x_{1}"),),
    # names, signs, lists
    *(("5", "x = 5"), ("x=5", "5"), ("x=5", "x = 5"), ("5", "AB = 5"), ("5", "2 + 3 = 5")),
    *(("60", r"\angle ABC = 60^\circ"),),
    *(("5", "a+b=5"), ("x=5", "5 = x"), ("1/4", "P(A) = 0.25"), ("55", "S_{10} = 55")),
    *(("5", "x=2+3=5"),),
    *((r"\pm 3", "3, -3"), (r"\pm 3", "3,-3"), ("3, -3", r"\pm 3"), (r"\{3,-3\}", r"x = \pm 3")),
    *(("\xb13", "-3, 3"),),
    *(("1, 2", "x=1 or x=2"), ("1,2", "2, 1"), ("1,2", "1 and 2"), (r"\{1,2\}", "x=1 or x=2")),
    *(("x=1, x=2", "1, 2"),),
    *(("1,2,3", "{1,2,3}"), ("1,2,3", r"\{1,2,3\}"), (r"\{1,2,3\}", r"\{3,1,2\}")),
    *((r"\{1,2,3\}", "1, 2, 3"),),
    *(("{1,2}", r"\left\{2,1\right\}"), (r"\{1,1,2\}", r"\{1,2\}"), (r"\{5\}", "5")),
    *((r"\emptyset", r"\varnothing"),),
    *(("(1,2)", "(1, 2)"), ("(1,2)", "1, 2"), ("(1,2)", "x=1, y=2"), ("(1,2)", "(x,y)=(1,2)")),
    *(("x=1, y=2", "y=2, x=1"),),
    *((r"(\frac12, 3)", "(0.5, 3)"), (r"\left(1,2\right)", "(1,2)")),
    *((r"\langle 1,2\rangle", "(1,2)"),),
    *(("w=16, d=3, a=1, b=1", "w = 16, d = 3, a = 1, b = 1"),),
    *(("w=16, d=3, a=1, b=1", "a=1, b=1, d=3, w=16"),),
    *(("(1,2),(3,4)", "(3,4), (1,2)"), (r"\{(1,2),(3,4)\}", r"\{(3,4),(1,2)\}")),
    *(("1, 2, 3", "1, 2, and 3"),),
    *((r"1 \pm \sqrt{2}", r"1+\sqrt2, 1-\sqrt2"), (r"2 \text{ or } 3", "3 or 2"), ("1;2", "1, 2")),
    # ranges
    *((r"(-\infty,-5)", "k < -5"), (r"(-\infty,-5)", "k<\u22125"), ("k<-5", r"(-\infty, -5)")),
    *(("x>5", "5<x"),),
    *((r"[2,\infty)", r"x \ge 2"), (r"[2,\infty)", "x >= 2"), ("(1,2]", "1 < x <= 2")),
    *(("1<x<2", "(1,2)"),),
    *((r"x \in (1,2)", "(1,2)"), ("(1,2)", r"x \in (1, 2)")),
    *((r"(-\infty,1)\cup(2,\infty)", "x<1 or x>2"),),
    *((r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)"), (r"x \le 3", "x\u22643")),
    *((r"\mathbb{R}", r"(-\infty,\infty)"),),
    # matrices, ratios, times
    *((r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}"),),
    *((r"\begin{pmatrix}1/2\\3\end{pmatrix}", r"\begin{pmatrix}0.5\\3\end{pmatrix}"),),
    *((r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]"),),
    *((r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),),
    *(("1:2", "1:2"), ("1:2", "2:4"), ("1:2", "1/2"), ("1:2:3", "2:4:6"), ("12:00", "12:00")),
    *(("3:30", "3:30 PM"),),
    *(("1010_2", "1010_{2}"), ("1010_2", "1010")),
    # units
    *(("5 cm", "5 cm"), ("5 cm", "5"), ("5", "5 cm"), ("5 cm", r"5\text{ cm}")),
    *(("5 cm", "0.05 m"), ("5cm", "5 cm")),
    *(("18.8", "18.8\xb0"), ("18.8", r"18.8^\circ"), (r"90^\circ", "90 degrees")),
    *((r"90^\circ", "90"), ("12 m^2", "12 m\xb2")),
    *(("12 square meters", r"12\text{ m}^2"), ("60 km/h", r"60\text{ km/h}")),
    *(("60 km/h", "60 kilometers per hour"),),
    *(("$5", "5 dollars"), ("5", r"\$5.00"), ("10 apples", "10"), ("42", "42 apples")),
    *(("2 hours", "120 minutes"), ("5", r"5\,\mathrm{cm}")),
    # letters and words
    *(("C", "(C)"), ("C", "C"), ("C", "c"), ("(C)", "C"), (r"\text{(C)}", "C")),
    *(("C", r"\text{C}"), ("C", "C) 5"), ("C", "Option C")),
    *(("Paris", "paris"), (r"\text{Monday}", "Monday"), ("even", r"\text{even}")),
    *(("Yes", "yes."), ("no", "No")),
    # sentences
    *(("42", "So she has 42 apples."), ("42", "The answer is 42."), ("42", "**42**")),
    *(("42", "Therefore, the answer is $42$."),),
    *(("5", "Hence $x = 5$."), ("1/2", r"The probability is $\frac{1}{2}$.")),
    *(("42", "Answer: 42"), ("42", "#### 42")),
    *(("42", "<answer>42</answer>"), ("42", "<think>hm</think>42")),
    *(("5", "Since $a=2$, we get $b=5$."), ("1,2", "$1$ and $2$")),
]  # fmt: skip

OTHER = [
    *(("1/2006!", "1/2004!"), ("1/2^{99}", "1/2^{98}"), ("1e-7", "2e-7"), ("10^20", "10^20+1")),
    *(("10^{20}", "100000000000000000001"),),
    *(("3.14159265", "3.1416"), (r"\pi", "3.14"), (r"\pi", "22/7"), ("4", r"4\sqrt2")),
    *((r"4\sqrt2", "4"), (r"\sqrt2", "1.414")),
    *(("x=5", "y=7"), ("x=5", "y=5"), ("5", "x=x"), ("5", "x=y"), ("x=5", "x=6"), ("5", "2x=5")),
    *(("42", "1=42"), ("5", "x^2=5")),
    *(("(1,2)", "[1,2]"), ("(1,2)", "{1,2}"), ("(1,2)", r"\{1,2\}"), ("[1,2]", "(1,2)")),
    *((r"\{1,2\}", "(1,2)"), ("(1,2)", "(2,1)")),
    *((r"\{1,2\}", "[1,2]"), ("[1,2)", "(1,2]"), ("[1,2)", "[1,2]"), ("5 cm", "5 km")),
    *(("5 km", "5 cm"), ("5 cm", "5 cm^2"), ("$5", "\u20ac5")),
    *(("50", "50%"), ("50%", "50"), ("0.5", "50"), ("50", "0.5"), ("0.5%", "0.5")),
    *(("3/2", "3\xbd"), ("3/2", "3 1/2"), ("31/2", "3 1/2")),
    *(("x+1", "y+1"), ("12:00", "1:00"), ("12:00 AM", "12:00 PM"), ("2,3,4", "n=1,2,3")),
    *(("2,3,4", "1,2,3"), ("1,2", "1,2,3")),
    *(("42", "-42"), ("-42", "42"), ("42", "NaN"), ("42", "inf"), (r"\infty", "42")),
    *(("42", r"\infty"), (r"\infty", r"-\infty"), ("0", "nan")),
    # hedges
    *(("42", "40, 41, 42, 43"), ("42", "41 or 42"), ("42", "42 or 41"), ("42", "not 42")),
    *(("42", r"\neq 42"), ("42", "\u2260 42")),
    *(("42", "x < 42"), ("42", "x > 42"), ("42", r"x \le 42"), ("42", "between 41 and 43")),
    *(("42", "142"), ("42", "421"), ("42", "4.2")),
    *(("42", r"\pm 42"), ("42", "\xb142"), ("42", "42 no, wait, 41"), ("42", "It is not 42.")),
    *(("42", "less than 42"), ("42", "at least 42 apples")),
    *(("42", "The answer is 42 or 43."), ("42", "either 41 or 42")),
    *(("42", "maybe 42, maybe 43"), ("42", "42?  41?"), ("42", "{41, 42}")),
    *(("C", "A B C D"), ("C", "A, B, C, D"), ("C", "A or C"), ("C", "B"), ("C", "not C")),
    *(("C", "(A) (B) (C)"), ("C", "all of them"), ("C", "ABC")),
    *(("Paris", "Paris or Lyon"), ("Paris", "not Paris"), ("no", "on"), ("no", "yes")),
    *(("Yes", "No"), ("even", "odd"), ("Paris", "Par is")),
    *(("42", ""), ("42", " "), ("42", "."), ("42", r"\boxed{}"), ("42", "$$")),
    *(("42", "I don't know"), ("", ""), ("", "42"), ("42", "####")),
    *(("42", "Let's solve this problem step by step."), ("42", "Solution"), ("42", "\u89e3")),
    *(("42", "Thought process:"), ("42", "{"), ("42", "Answer:")),
    # characters and cuts
    *(("42", "4\u200b2"), ("42", "\u202e24"), ("42", "4\x002"), ("42", "4\u03362")),
    *(("a", "\u0430"), ("42", "4\ud8002"), ("42", "4\xad2")),
    *(("42", r"\boxed{42} so \boxed{4"), ("42", "<think>42"), ("1234", "12")),
    *(("42", "<answer>42"), ("42", r"\boxed{42"), ("42", "<think>so 42</think>")),
    *(("42", r"not \boxed{42}"), ("42", r"x \neq \boxed{42}")),
    *(("42", r"\boxed{42}. No, wait, it is 41."), ("42", r"\boxed{41} 42")),
    # nearly
    *(("x^2", "x^3"), ("x^2", "2x"), ("|x|", "x"), (r"\sqrt{x^2}", "x"), ("x+1", "x-1")),
    *(("1/3", "0.33"), ("2/3", "0.67"), ("1/3", "0.3333")),
    *((r"\frac{\sqrt3}{3}", r"\frac{\sqrt3}{2}"), ("2i+1", "2+i"), ("1+2i", "1-2i")),
    *((r"\ln 2", r"\log 2"), (r"\sin x", r"\cos x"), ("e", "2.718")),
    *((r"(-\infty,-5)", r"k \le -5"), (r"(-\infty,-5)", "k > -5"), ("k<-5", "x<-4")),
    *(("x>5", "5"), ("5", "x>5"), ("x<1 or x>2", "x<1")),
    *(("1:2", "2:1"), ("1:2", "1:3"), ("1010_2", "1010_3"), ("1010_2", "10")),
    *(("60 km/h", "60 m/s"), ("2 hours", "2 minutes"), ("10 apples", "10 pears")),
    *((r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),),
    *((r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),),
    *(("1,2", "(2,1)"), ("1.5", "1,6"), ("1.2", "12"), ("1,200", "1.2"), ("1.2", "1,200")),
    *(("1, 2", "1.2"), ("1.234", "1,234"), ("12", "1, 2")),
    *(("1/4!", "1/4"), ("2^{10}", "2*10"), ("x=1, y=2", "x=2, y=1"), ("x^2+y^2=1", "x^2+y^2=2")),
    *(("y=2x+1", "y=2x"), ("f(x)=2x", "f(x)=3x")),
    *((r"\emptyset", "0"), ("0", r"\emptyset"), (r"\{0\}", r"\emptyset"), ("5", "[5]")),
    *(("7/2", "3(1/2)"), ("10", "10x"), ("10x", "10"), ("5", "5x")),
]  # fmt: skip

HOSTILE = [
    *("5^(5^(5^(5^5)))", "5^{5^{5^{5^5}}}", "9^9^9^9", "9**9**9", "9^{9^{9^9}}", "10000000!", "(10000!)!", "((((9!)!)!)!)!"),  # noqa: E501
    *(r"\sum_{n=1}^{1000000000} \sin n", r"\int_0^1 e^{\sin(x^x)} dx", "(x+y+z+w)^300 - (x+y+z+w)^299", r"\prod_{n=1}^{10^9} n"),  # noqa: E501
    *("(" * 4000 + "7" + ")" * 4000, "+".join(["x"] * 20_000), r"\boxed{" * 3000, "9" * 200_000, "{" * 4000, r"\sqrt{" * 500 + "7" + "}" * 500),  # noqa: E501
    *("__import__('os').system('touch /tmp/rlvr_jax_was_here')", "().__class__.__bases__[0].__subclasses__()", "[0]*10**10", "'a'*10**10"),  # noqa: E501
    *("10^10^10", "2^(10^9)", "1e999999999", r"\binom{10^9}{5\cdot10^8}", "exp(exp(exp(exp(10))))", r"\frac{" * 300 + "1}{2}" * 300, "7" + "!" * 900),  # noqa: E501
    *("-" * 100_000 + "7", r"\sqrt[10^9]{2^{10^9}}", "1/0", "0^0^0^0", "tan(pi/2)", r"\log_{1} 7", "x" * 1_000_000, "((" * 300_000),  # noqa: E501
    *(r"\lim_{n\to\infty} (1+1/n)^n^n^n", "{" + ",".join(["9^9999"] * 300) + "}", "$" * 100_000, "#### " * 50_000, "Answer: " * 50_000, r"\frac" * 9000),  # noqa: E501
    *("\u0661" * 100_000, "<answer>" * 50_000, "<think>" * 50_000, r"\left(" * 9000, "7 or " * 20_000, "=".join("1" * 9000), "0." + "0" * 100_000 + "7"),  # noqa: E501
    *(r"\begin{pmatrix}" + "9^9999&" * 5000 + r"\end{pmatrix}", "(a+b+c+d+e+f)^{9999}", "9999!^9999!", r"\zeta(10^9)", "999999999999!!", "|" * 999 + "7"),  # noqa: E501
]  # fmt: skip

# A second list, written after the first one passed.
SAME_TOO = [
    *(("1000000", "1,000,000"), ("5", "5"), (r"x \in [-2,7]", "[-2, 7]"),),
    *((r"x \in [-2,7]", "-2 <= x <= 7"), ("[-2,7]", r"-2\le x\le7"),),
    *((r"2\sqrt{3}+1", r"1+2\sqrt3"), (r"\frac{-3+\sqrt{5}}{2}", "(-3+sqrt(5))/2"),),
    *(("3+4i", "4i+3"), (r"\frac{3}{2}", "1.5"), (r"\frac32", r"1\frac12"),),
    *((r"6\text{ inches}", "6 in"), (r"6 \text{ inches}", "6"), (r"\$32,348", "32348"),),
    *((r"11,\! 111,\! 111,\! 100", "11111111100"), (r"10,\!236", "10236"),),
    *((r"\text{Evelyn}", "Evelyn"), ("E", r"\textbf{(E)}"), ("E", "E"),),
    *((r"(3, \frac{\pi}{2})", "(3,pi/2)"),),
    *((r"\left( 3, \frac{\pi}{2} \right)", r"\left(3,\frac\pi2\right)"), ("p - q", "-q+p"),),
    *((r"\frac{14}{3}", "14/3"), ("x^3+3x-6", "3x + x^3 - 6"), ("4210_{5}", "4210_5"),),
    *(("2k+2", "2(k+1)"), ("5r^5", "5 r^{5}"), (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),),
    *((".0000672", r"6.72 \times 10^{-5}"),),
    *((r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}", r"\begin{pmatrix} -\frac13 \\ \frac23 \\ \frac53 \end{pmatrix}"),),  # noqa: E501
    *((r"\left( \frac{3}{2}, -13 \right)", "(1.5, -13)"), ("1,-2", "-2, 1"),),
    *(("(6,31,-1)", "(6, 31, -1)"), (r"\frac{9}{256}", "9/256"),),
    *((r"70\sqrt{2}", r"70 \cdot \sqrt{2}"), ("y = x^4 - 4x^3", "x^4-4x^3"),),
    *(("x^{2} + 2x", "x(x+2)"), (r"-\frac{2}{3}", "-2/3"),),
    *((r"\frac{\sqrt{21}}{5}", "sqrt(21)/5"), (r"864 \mbox{ inches}^2", "864"),),
    *((r"15\mbox{ cm}^2", "15 cm^2"), (r"0.\overline{3}", "1/3"), (r"(0,\infty)", "x > 0"),),
    *((r"(-2,1)\cup(3,4]", "-2<x<1 or 3<x<=4"), (r"\{x | x>3\}", "x>3"),),
    *(("{x : x > 3}", r"(3,\infty)"), ("all real numbers", r"\mathbb{R}"),),
    *(("no solution", "No solution"), (r"\text{no solution}", "no solution."),),
    *(("undefined", "undefined"), ("12", "twelve"), ("7", "seven"), ("2:30", "2:30"),),
    *(("3/5", "0.6"), (r"60\%", "60%"), (r"3.5\times 10^{-3}", "0.0035"), ("x=2,y=3", "(2,3)"),),
    *((r"\left\{-1, 1\right\}", "x = -1, 1"), (r"x=-1 \text{ or } x=1", r"\pm 1"),),
    *(("-1, 1", "x_1 = -1, x_2 = 1"),),
    *((r"\frac{\pi}{6}, \frac{5\pi}{6}", r"x=\pi/6 \text{ and } x = 5\pi/6"),),
    *((r"4\pi", r"4\pi \text{ cm}"), (r"\frac{1}{2}ab\sin C", r"(1/2)*a*b*\sin(C)"),),
    *((r"\log_{10} 2", r"\log 2"), (r"\cos^2\theta", r"1-\sin^2\theta"), ("n!", "n!"),),
    *((r"\frac{n(n+1)}{2}", "n(n+1)/2"), ("2^n", "2^{n}"), (r"e^{i\pi}", "-1"),),
    *(("C", "The correct answer is (C)."), ("C", "**C**"), ("C", "C. mitochondria"),),
    *(("B", "Answer: B"), ("B", r"\boxed{B}"), ("(A)", "A)"), ("42", r"\[ \boxed{42} \]"),),
    *(("42", r"The final answer is: $\boxed{42}$"),),
    *(("42", "Final Answer: The final answer is $42$. I hope it is correct."),),
    *(("42", "Answer: $42$"), ("42", "The answer is: 42"), ("42", "42\u200b"),),
    *((r"$\frac{1}{2}$", "0.5"), (r"\(\frac{1}{2}\)", "1/2"), (r"\boxed{5}", "5"),),
    *((r"24 \text{ hours}", "1 day"), ("\u20b91000", "1000"), ("1000", "Rs. 1000"),),
    *(("1000", "1000 rupees"), ("x < -5", "(-\u221e, -5)"), ("1/\u221a3", "\u221a3/3"),),
    *(("[[1,2],[3,4]]", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"), (r"A \cup B", "A\u222aB"),),
    *(("5", "x=5.0"), ("8:1", "8 : 1"), ("9", r"9 \text{ (units)}"), (r"3\text{ or }5", "3,5"),),
    *(("72", r"72^{\circ}"), (r"\angle A = 72^\circ", "72"), ("0", "-0"), (r"\sqrt{-4}", "2i"),),
    *(("(x+1)^2", "x^2+2x+1"), ("15", r"15 \text{ students}"), ("-x+3", "3-x"),),
    *(("3x^{-2}", "3/x^2"), ("7.0", "7"), (r"\frac{7}{1}", "7"), ("11", "11th"),),
    *(("April", "april"), (r"x\neq 3", "x != 3"), (r"x \ne 3", "x \u2260 3"),),
    *(("A,B,D", "A, B, D"), ("3x+2y=6", "6 = 2y+3x"), (r"y=\frac{1}{2}x+3", "y = 0.5x + 3"),),
    *((r"2 \sqrt{2} i", r"2i\sqrt{2}"), (r"\frac{1}{3}", "0.333333333"), ("1.5e-3", "0.0015"),),
    *((r"1 \frac{3}{4}", "7/4"), (r"10\sqrt{5}", r"\sqrt{500}"),),
    *((r"-\infty < x < 2", r"(-\infty, 2)"), ("True", "true"), (r"9\frac{1}{2}\%", "9.5%"),),
    *(("30 minutes", "0.5 hours"), ("2 kg", "2000 g"), ("1.5", "3/2"),),
    *(("x = 1, -1", r"\{1,-1\}"),),
]  # fmt: skip

OTHER_TOO = [
    *(("1,2", "12"), ("(1,2)", "1/2"), ("2", r"\sqrt{2}"), ("x^2", "x^{2.0001}"), ("100", "1e3"),),
    *(("100", "10^3"), ("5 m/s", "5 m"), ("5", "five or six"), ("7", "seven hundred"),),
    *(("3", "three quarters"), (r"\frac12", r"\frac21"), ("x>3", r"x\ge3"), ("12", "1_2"),),
    *(("2", "2 or so, maybe 3"), ("10", "between 9 and 11"), ("42", "approximately 40"),),
    *(("42", "42,43"), ("A", "B"), ("A", "A, B"), ("A", "A and B"), ("True", "False"),),
    *(("5", "-5"), ("5", "|5|+1"), ("x", "y"), ("x=3", "x=-3"), (r"\pm 3", "3"), ("3", r"\pm 3"),),
    *(("3,-3", "3"), ("{1}", "{2}"), ("(2,3]", "[2,3]"), (r"2\pi", "2"), ("2", r"2\pi"),),
    *(("2i", "2"), ("1/7", "0.142857"), ("10", "10!"), ("10!", "10"), ("10^{10}", "10^{11}"),),
    *(("10^100", "10^100+1"), ("123456789123456789", "123456789123456788"),),
    *(("0.1", "0.10000001"), ("1e-20", "2e-20"), ("0", "1e-50"), ("100%", "100"), ("1", "100"),),
    *(("25 cm", "25 in"), ("25 kg", "25 lb"), ("yes", "no"), ("Paris, France", "France"),),
    *(("cat", "cats and dogs"), ("42", "42 43"), ("42", "4 2"), ("5", "5/1/1/0"), ("2", "1+1+1"),),
    *(("5", "x=5 and x=6"), ("5", "x=5, y=6"), ("x=5", "x=5 or x=6"),),
    *(("42", "The answer could be 42."), ("42", "It isn't 42"),),
    *(("42", "I think the answer is not 42"), ("42", "43 (not 42)"), ("42", "42 is wrong"),),
    *(("42", "Is it 42?"), ("42", r"\text{not } 42"), ("42", r"2 \cdot 21 + 1"),),
    *(("x+1", "x + y"), ("a", "A"), ("sin x", "cos x"), (r"\sin x", r"\sin y"), ("3.0001", "3"),),
    *(("1/3", "1/3.0001"), ("16:9", "9:16"), ("12:30", "12:03"), ("2:30 PM", "2:30 AM"),),
    *((r"\infty", r"-\infty"), ("undefined", "0"), ("42", "42 (or 43)"), ("{}", "0"),),
    *(("even", "not even"), (r"\text{Monday}", "Tuesday"), ("3", "III"), ("2^{10}", "210"),),
    *(("x^2", "x2"), (r"\frac{1}{2}", "12"), ("1 1/2", "11/2"), ("5", "05 06"), ("1.5", "1,500"),),
    *(("(1,2)", "(1,2,3)"), ("[1,2,3]", "(1,2,3)"), ("A", "a or b"), ("B", "Both A and B"),),
    *(("7", "7, 8, 9"), ("42", "42 or more"), ("42", "more than 42"), ("42", "up to 42"),),
    *(("42", "42+"), ("42", "~43"), ("42", "42..43"), ("42", "42-43"), ("42", "x=42 or 43"),),
    *(("1", "0.999999"), ("2", "1.99999999"),),
]  # fmt: skip

RIGHT, WRONG = SAME + SAME_TOO, OTHER + OTHER_TOO
MARKED = ("boxed", "####", "Answer:", "<", "\\[")


def ways(answer):
    """The answer alone, and as models end a solution."""
    if any(mark in answer for mark in MARKED):
        return [answer]
    return [answer, f"We divide.\nSo it is $\\boxed{{{answer}}}$.", f"First, 3 + 4 = 7.\n{answer}"]


def wrong(pairs, score):
    texts = [(gold, text) for gold, answer in pairs for text in ways(answer)]
    return [pair for pair in texts if rules.score(pair[1], pair[0]) != score], len(texts)


def test_answers_that_say_the_same():
    missed, total = wrong(RIGHT, 1.0)
    assert len(RIGHT) >= 200 and len(missed) <= 0.1 * total  # the promise
    assert not missed  # what it is today


def test_answers_that_do_not():
    missed, total = wrong(WRONG, 0.0)
    assert len(WRONG) >= 150 and len(missed) <= 0.03 * total
    assert not missed


@pytest.mark.parametrize("gold", [pair[0] for pair in RIGHT])
def test_a_reference_is_equal_to_itself(gold):
    assert rules.score(gold, gold) == 1.0


def test_hostile_answers_score_zero_and_fast():
    assert len(set(HOSTILE)) >= 50
    for answer in HOSTILE:
        for text in (answer, f"\\boxed{{{answer}}}"):
            for gold in ("7", "x^2+1", r"\{1,2\}"):
                begin = time.monotonic()
                assert rules.score(text, gold) == 0.0, text[:60]
                assert time.monotonic() - begin < 5, text[:60]
    assert rules.score("so \\boxed{42}", "42") == 1.0
    assert not Path("/tmp/rlvr_jax_was_here").exists()


@pytest.mark.parametrize("gold", [None, 3, b"7", "", "\x00", "9" * 10**6, "(" * 10**5, "\\boxed{"])
def test_a_strange_reference_scores_zero(gold):
    assert rules.score("7", gold) == 0.0


def test_kinds_that_do_not_exist_score_zero():
    assert rules.score("7", "7", "maths") == 0.0


def test_from_a_thread_and_a_process():
    found = []
    thread = threading.Thread(target=lambda: found.append(rules.score("1/2", "0.5")))
    thread.start()
    thread.join()
    code = "from rlvr_jax.host import rules; print(rules.score('0.5', '1/2'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found == [1.0] and done.stdout == "1.0\n"


def test_importing_the_rules_imports_no_jax():
    code = (
        "import sys; from rlvr_jax.host import rules\n"
        "from rlvr_jax.host.workers import pool, worker; print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
