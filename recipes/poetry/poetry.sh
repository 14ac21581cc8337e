#!/bin/sh
# Poems to order: sh poetry.sh FOLDER_OF_JSON OUT [MINUTES]
set -eu
poems=$1 out=$2 minutes=${3:-10}
here=$(dirname "$0")
mkdir -p "$out"

# What each poem is, beside its text.
"${PYTHON:-python3}" "$here/tag_forms.py" "$poems" "$out/poems.jsonl"

# Genre and form become tags in front of the text; all in one script, so that a character is one token everywhere.
bimo run "$out/poems.jsonl" --out "$out/model" --minutes "$minutes" --chinese simplified --control genre --control form

# The tag asks for a form, the expression makes sure of it: four lines of five characters.
line='[一-龥]{5}'
bimo generate "$out/model" --set genre=诗 --set form=五言绝句 --regex "$line，$line。
$line，$line。" --seed 1

# A poem that begins with given words: what is written goes on from there, so the first line lacks two characters.
bimo generate "$out/model" "明月" --set form=五言绝句 --regex "[一-龥]{3}，$line。
$line，$line。" --seed 2

# A couplet of seven characters; no tag of this corpus is a couplet, so the expression alone asks for it.
bimo generate "$out/model" "春" --regex '[一-龥]{6}，[一-龥]{7}。' --seed 3
