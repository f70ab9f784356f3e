"""List the languages that the rule `language` knows: their ISO 639 codes, names and scripts."""

from __future__ import annotations

from typing import NamedTuple


class Language(NamedTuple):
    """A Language holds the detector's code of a language, and its scripts.

    A script is the word with which Unicode names of its characters begin, such as LATIN.
    """

    code: str
    scripts: tuple[str, ...]


# Code of two letters (of three, where there is none), codes of three letters, English name.
_BY_SCRIPT = {
    "LATIN": """
    af afr Afrikaans, an arg Aragonese, az aze Azerbaijani, bcl bik Bikol, br bre Breton,
    bs bos Bosnian, ca cat Catalan, cs ces cze Czech, cy cym wel Welsh, da dan Danish,
    de deu ger German, en eng English, eo epo Esperanto, es spa Spanish, et est Estonian,
    eu eus baq Basque, ext Extremaduran, fi fin Finnish, fo fao Faroese, fr fra fre French,
    fy fry Frisian, ga gle Irish, gd gla Gaelic, gl glg Galician, gug gn grn Guarani, ha hau Hausa,
    hr hrv Croatian, ht hat Haitian, hu hun Hungarian, id ind Indonesian, ig ibo Igbo,
    is isl ice Icelandic, it ita Italian, jv jav Javanese, kab Kabyle, kik ki Kikuyu,
    ku kur Kurdish, la lat Latin, lb ltz Luxembourgish, lg lug Ganda, lij Ligurian, ln lin Lingala,
    lt lit Lithuanian, lv lav Latvian, mg mlg Malagasy, ms msa may Malay, mt mlt Maltese,
    nl nld dut Dutch, nn nno Nynorsk, no nor nb nob Norwegian, nso Sepedi, oc oci Occitan,
    om orm Oromo, pcm Pidgin, pl pol Polish, pt por Portuguese, qu que Quechua,
    ro ron rum mo Romanian, rw kin Kinyarwanda, se sme Sami, sk slk slo Slovak, sl slv Slovenian,
    sn sna Shona, so som Somali, sq sqi alb Albanian, st sot Sesotho, sv swe Swedish,
    sw swa Swahili, tk tuk Turkmen, tl tgl fil Tagalog, tr tur Turkish, vec Venetian,
    vi vie Vietnamese, vo vol Volapuk, wa wln Walloon, xh xho Xhosa, yo yor Yoruba, zu zul Zulu
    """,
    "CYRILLIC": """
    ba bak Bashkir, be bel Belarusian, bg bul Bulgarian, kk kaz Kazakh, ky kir Kyrgyz,
    mk mkd mac Macedonian, mn mon Mongolian, ru rus Russian, tg tgk Tajik, tt tat Tatar,
    uk ukr Ukrainian
    """,
    "LATIN CYRILLIC": "sr srp Serbian, uz uzb Uzbek, crh Crimean",
    "ARABIC": """
    ar ara Arabic, ary Moroccan, arz Egyptian, fa fas per Persian, ps pus Pashto,
    sdh Kurdish-Southern, ug uig Uyghur, ur urd Urdu
    """,
    "DEVANAGARI": "gom kok Konkani, hi hin Hindi, mr mar Marathi, ne nep Nepali, sa san Sanskrit",
    "BENGALI": "as asm Assamese, bn ben Bengali",
    "CJK": "zh zho chi cmn Chinese, yue Cantonese, wuu Wu",
    "CJK HIRAGANA KATAKANA": "ja jpn Japanese",
    "HEBREW": "he heb iw Hebrew, hbo Biblical-Hebrew",
    "GREEK": "el ell gre Greek, grc Ancient-Greek",
    "TIBETAN": "dz dzo Dzongkha, bo bod tib Tibetan",
    "ETHIOPIC": "am amh Amharic",
    "HANGUL": "ko kor Korean",
    "THAI": "th tha Thai",
    "LAO": "lo lao Lao",
    "KHMER": "km khm Khmer",
    "MYANMAR": "my mya bur Burmese",
    "GEORGIAN": "ka kat geo Georgian",
    "ARMENIAN": "hy hye arm Armenian",
    "TAMIL": "ta tam Tamil",
    "TELUGU": "te tel Telugu",
    "KANNADA": "kn kan Kannada",
    "MALAYALAM": "ml mal Malayalam",
    "GUJARATI": "gu guj Gujarati",
    "GURMUKHI": "pa pan Punjabi",
    "ORIYA": "or ori ory Odia",
    "SINHALA": "si sin Sinhala",
    "THAANA": "dv div Dhivehi",
}
# Languages that are written nearly alike: none of them is refused for another.
ALIKE = (
    *("bs hr sr", "no nn", "zh yue wuu", "en pcm", "id ms", "uz uzs", "ar ary arz", "he hbo"),
    *("el grc", "ku sdh", "st nso", "es ext an", "it lij vec", "ht gcf gcr", "dz bo"),
)


def find_language(name: str) -> Language:
    """Return a language by its ISO 639 code, with or without a region, or by its English name.

    Raises:
      ValueError: the language is not known.
    """
    key = str(name).strip().casefold().replace("_", "-")
    language = _LANGUAGES.get(key) or _LANGUAGES.get(key.partition("-")[0])
    if language is None:
        raise ValueError(
            f"language {name!r} is not known: write a code of ISO 639 such as en, or an English "
            "name such as English (docs/rewards.md)"
        )
    return language


def codes() -> list[str]:
    """Return one code for each language, sorted."""
    return sorted({language.code for language in _LANGUAGES.values()})


def _read() -> dict[str, Language]:
    languages: dict[str, Language] = {}
    for scripts, rows in _BY_SCRIPT.items():
        for row in rows.split(","):
            keys = row.split()
            language = Language(keys[0], tuple(scripts.split()))
            languages |= dict.fromkeys([key.casefold() for key in keys], language)
    return languages


_LANGUAGES = _read()
