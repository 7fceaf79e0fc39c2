"""Token ids by Hugging Face's tokenizers (0.23), which tests/unit/trainers_data_parity_test.cpp compares ours with:

    python3 tests/golden/tokenizers_parity.py [DIRECTORY WITH checkpoints/ AND data/] > tests/golden/tokenizers.json

Without the directory the part about it is left as it was.
"""
import json
import pathlib
import random
import sys

from tokenizers import BertWordPieceTokenizer, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
TEXTS = [
    "the cat sat on the mat, isn't it? It's 12345 o'clock.\n\n   Three   spaces\tand a tab ",
    "CAFÉ Ångström naïve Ünïted ŁÓDŹ İstanbul Straße ﬁne Ĳssel",
    "Ελληνικά ΆΣΣΟΣ  Ёлка Йод ЖЁЛТЫЙ ǅ Ǽ ṩ ṻ",
    "e\u0301 combined, \u00adsoft, zero\u200bwidth, \ufeffmark, \u2028line, no\u00a0break",
    "中文字 漢字かな ガ カ\u3099 한국어 각 豈 \U0002f800",
    "«quotes» “curly” – dash — em … ‽ ⁂ 、。！ $5 + 3 = 8 ~ ^ ` | <tag> ¿qué?",
    "[CLS] in [MASK] the text [SEP] [cls] <|endoftext|> end",
    "\u0915\u093f\u0928\u0940 नमस्ते อักษรไทย עִבְרִית العَرَبِيَّة 😀 👩\u200d🚀 𝔘𝔫𝔦",
    "a" * 120 + " unaffable " + "ab" * 40,
]


def fnv(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        h = ((h ^ i) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def byte_level():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return t


def word_piece(vocab):
    return BertWordPieceTokenizer(vocab, lowercase=True)


def small_vocabulary():
    """Pieces of the texts' own words, after normalisation; every fourth is left out, so that [UNK] occurs."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t = word_piece({s: i for i, s in enumerate(special)})
    words = sorted({w for text in TEXTS for w, _ in t._tokenizer.pre_tokenizer.pre_tokenize_str(
        t._tokenizer.normalizer.normalize_str(text))})
    pick, pieces = random.Random(1), set()
    for w in words:
        cut = pick.randrange(1, len(w) + 1)
        if pick.random() < 0.75:
            pieces.update({w[:cut]} | {"##" + x for x in ([w[cut:]] if pick.random() < 0.5 else w[cut:])})
    pieces = sorted(p for p in pieces if p not in ("", "##") and len(p) < 100 and p not in special)
    return special + pieces


def ids(t, text):
    return t.encode(text, add_special_tokens=False).ids


out = {"texts": TEXTS}
t = byte_level()
out["bpe"] = {"json": json.loads(t.to_str()), "ids": [ids(t, x) for x in TEXTS]}
vocab = small_vocabulary()
t = word_piece({w: i for i, w in enumerate(vocab)})
out["wordpiece"] = {"vocab": vocab, "ids": [ids(t, x) for x in TEXTS]}
if len(sys.argv) > 1:
    root, out["shared"] = pathlib.Path(sys.argv[1]), {}
    for name in ("gpt2", "llama", "deepseek-mla", "bert"):
        folder = root / "checkpoints" / name
        t = (word_piece(str(folder / "vocab.txt")) if name == "bert" else
             Tokenizer.from_file(str(folder / "tokenizer.json")))
        out["shared"][name] = {}
        for file in ("tinyshakespeare.txt", "wikitext2-test.txt"):
            got = ids(t, (root / "data" / file).read_bytes().decode())
            out["shared"][name][file] = {"tokens": len(got), "fnv1a": fnv(got)}
        got = [ids(t, x) for x in TEXTS]
        out["shared"][name]["texts"] = {"tokens": sum(map(len, got)), "fnv1a": fnv([i for g in got for i in g])}
else:
    out["shared"] = json.loads((HERE / "tokenizers.json").read_text())["shared"]
print(json.dumps(out, ensure_ascii=True, separators=(",", ":")))
