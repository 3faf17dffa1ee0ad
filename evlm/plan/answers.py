"""What a model says instead of a plan: that it will not, or that nothing is to be done."""

from __future__ import annotations

import re

_LEAD = r"[\s\"'“‘*_`>#\-]{0,12}"
_HELP = r"(?:assist|help|comply|fulfil|fulfill|process|complete|edit|do|make|generate|create|provide|support)"
_REFUSALS = (
    r"(?:i['’]?m|i am|we['’]?re|we are)\s+(?:\w+\s+){0,2}"
    r"(?:sorry|afraid|unable|not able|not allowed|not comfortable)\b",
    r"(?:i|we)\s+(?:(?:really|must|have to|currently|simply|regret\w*)\s+){0,2}"
    r"(?:can ?not|can['’]?t|could not|couldn['’]?t|won['’]?t|will not|do not|don['’]t|decline|refuse"
    r"|apologi[sz]e)\b",
    rf"(?:unable to|can ?not|can['’]t)\s+{_HELP}\b",
    r"(?:sorry|apologies|my apologies|unfortunately|regrettably)\b",
    r"as an? (?:ai|language|vision|image|assistant)\b",
    r"(?:this|the|your) request (?:violates|goes against|is against|is not|cannot|can ?not|can['’]t)\b",
    r"(?:\u5f88?\u62b1\u6b49|\u5bf9\u4e0d\u8d77|\u5c0d\u4e0d\u8d77|\u4e0d\u597d\u610f\u601d|"
    r"\u6211\u65e0\u6cd5|\u6211\u7121\u6cd5|\u6211\u4e0d\u80fd|\u65e0\u6cd5|\u7121\u6cd5)",
    r"(?:\u7533\u3057\u8a33|\u3059\u307f\u307e\u305b\u3093|"
    r"\u3054\u3081\u3093\u306a\u3055\u3044|\uc8c4\uc1a1|"
    r"\u0438\u0437\u0432\u0438\u043d\u0438\u0442\u0435|"
    r"\u043a \u0441\u043e\u0436\u0430\u043b\u0435\u043d\u0438\u044e|"
    r"\u043f\u0440\u043e\u0441\u0442\u0438\u0442\u0435)",
    r"(?:es tut mir leid|tut mir leid|entschuldigung|leider|ich kann (?:\w+\s){0,4}nicht)\b",
    r"(?:(?:je suis )?désolée?|je ne peux pas|malheureusement)\b",
    r"(?:lo siento|no puedo|lamento|desculpe|não posso|mi dispiace|non posso)\b",
)
_REFUSAL = re.compile(rf"{_LEAD}(?:{'|'.join(_REFUSALS)})", re.IGNORECASE)

# What only a model says that refuses; a person's "Sorry, the sky is grey: make it blue" has none of it.
_WONT = re.compile(
    r"(?:can ?not|can['’]t|could ?n[o'’]t|unable to|not able to|won['’]t|will not|not (?:allowed|comfortable)"
    rf"|decline|refuse)\W+(?:\w+\W+){{0,3}}?{_HELP}\b"
    r"|\bas an? (?:ai|language|vision|image|assistant)\b|\brequests?\b|\bpolic(?:y|ies)\b|\bguidelines?\b"
    r"|\bnicht\b|\bne (?:peux|puis)\b|\bno puedo\b|\bposso\b|[^\x00-\u024f\u2010-\u203f]",
    re.IGNORECASE,
)

_THING = r"(?:changes?|edits?|editing|modifications?|alterations?|adjustments?|actions?)"
_WHOLE = (
    r"(?:the|this)?\s*(?:original\s+)?"
    r"(?:image|picture|photo|photograph|scene|video|frame|original|everything|it|all)"
)
_NO_CHANGE = re.compile(
    rf"{_LEAD}(?:"
    r"(?:none|null|nil|n/a|nothing|nothing (?:to|needs to) (?:do|be done|change|edit|be changed|be edited))"
    rf"|(?:there (?:is|are) )?(?:no|no (?:further|additional|more))\s+{_THING}"
    r"(?:\s+(?:is|are))?(?:\s+(?:needed|necessary|required|requested|made|to (?:make|be made|do)))?"
    rf"|(?:make|do|apply)\s+(?:nothing|no\s+{_THING})"
    rf"|(?:keep|leave)\s+{_WHOLE}\s+"
    r"(?:(?:exactly\s+)?as (?:it )?is|unchanged|unedited|untouched|unmodified|the same)"
    rf"|do(?:\s+not|n['’]t)\s+(?:change|edit|modify|alter)\s+(?:anything|{_WHOLE})"
    r")\b[\s\"'”’*_`]{0,12}(?P<why>(?:[.,;:!(—–-]|because|since|as\b).*)?",
    re.IGNORECASE | re.DOTALL,
)
# Why nothing is to be done; behind anything else there is something to do.
_REASON = re.compile(
    r"[\s.,;:!()—–\"'”’*_`-]*(?:(?:because|since|as|already)\b|(?:the|this|it|its|they|these|all|everything|what)\b"
    r".{0,160}?\b(?:already|as requested|as asked)\b)",
    re.I | re.S,
)
# Or how it is, which it may stay; each clause is to say so, or to thank.
_FINE = re.compile(
    r"(?:(?:and|so)\s+)?(?:(?:nothing|thanks?)\b|looks? (?:good|fine|great)\b"
    r"|(?:the|this|it|its|they|these|all|everything|what)\b.{0,160}?"
    r"(?:\b(?:is|are|looks?|has|have|match(?:es)?|fits?)\b|(?<=it)['\u2019]s\b))"
    r"(?!.*\b(?:should|must|needs?|to be|too|enough|now|will)\b)",
    re.I | re.S,
)
_YET = re.compile(
    r"\b(?:but|except|instead|however|only|apart from|other than|make|replace|add|remove|turn|then|change)\b",
    re.I,
)


def is_refusal(text: str) -> bool:
    """Whether a text begins as a model does that will not or cannot do it, in one of the larger languages. No
    editing instruction begins so."""
    return _REFUSAL.match(text[:200]) is not None


def may_be_an_edit(text: str) -> bool:
    """Of a text that `is_refusal`: whether a person may have written it to ask for an edit."""
    return len(text.split()) > 5 and _WONT.search(text) is None


def asks_for_no_change(instruction: str) -> bool:
    """Whether an instruction is that nothing is to be done: "no change needed", "keep the picture as it is".
    "Keep everything as it is, but ..." and "No edits needed. Brighten the sky" are not."""
    match = _NO_CHANGE.fullmatch(instruction[:400].strip())
    if match is None:
        return False
    why = (match["why"] or "").strip("\t\n\r .,;:!()—–\"'”’*_`-")
    if not why or _YET.search(why):
        return not why
    clauses = [each for part in re.split(r"[.,;:!()—–]+", why) if (each := part.strip("\t\n\r \"'”’*_`-"))]
    return _REASON.match(why) is not None or all(map(_FINE.match, clauses))
