#!/bin/sh
# Checks an evidence pack with sh, openssl, xxd and the usual POSIX tools. Nothing else is needed.
#
#   sh verify.sh [--fingerprint HEX]... [--at-least SIZE:ROOT]... [PACK]
#
# PACK: the folder of the pack; without it, the folder this script lies in. --fingerprint: once for each
# key, as printed in the signed report; then a pack made with other keys is refused, and a witness has a
# name only when its key is among them. --at-least: a checkpoint noted earlier; the log must go on from it.
# Ends with 0 and the word VERIFIED only after the last check; otherwise with 8.
# It fails closed: there is no `[ a = b ] && ok` here, every test is followed by `|| die`.
set -eu
LC_ALL=C
export LC_ALL
unset CDPATH POSIXLY_CORRECT || :

MAX_ENTRIES=100000
T=application/vnd.in-toto+json
work=
verified=no

finish() {
  code=$?
  [ -z "$work" ] || rm -rf "$work"
  if [ "$verified" != yes ]; then
    echo "NOT VERIFIED" >&2
    [ "$code" != 0 ] || code=8
  fi
  exit "$code"
}
trap finish EXIT
trap 'exit 8' HUP INT TERM

die() {
  printf 'damage: %s\n' "$*" >&2
  exit 8
}

say() { printf '%s\n' "$*"; }

trusted=
noted=
here=$(dirname -- "$0")
pack=
while [ $# -gt 0 ]; do
  case $1 in
    --fingerprint)
      [ $# -ge 2 ] || die "--fingerprint needs a value"
      trusted="$trusted $(printf %s "$2" | tr -d ':' | tr A-F a-f)"
      shift 2
      ;;
    --at-least)
      [ $# -ge 2 ] || die "--at-least needs a value"
      printf '%s\n' "$2" | grep -q -x '[1-9][0-9]\{0,6\}:[A-Za-z0-9+/]\{43\}=' ||
        die "--at-least needs SIZE:ROOT as the report prints it"
      noted="$noted $2"
      shift 2
      ;;
    -*) die "unknown option $1" ;;
    *)
      [ -z "$pack" ] || die "one pack at a time"
      pack=$1
      shift
      ;;
  esac
done
pack=$(cd -- "${pack:-$here}" && pwd) || die "no such folder"

for tool in openssl xxd base64 sha256sum awk sed grep sort uniq head tail cut tr wc find cmp split paste od mktemp dirname; do
  command -v "$tool" >/dev/null 2>&1 || die "this machine has no $tool"
done
work=$(mktemp -d) || die "no temporary folder"

# --- small parts -------------------------------------------------------------------------------------

have() { [ -f "$pack/$1" ] && [ ! -L "$pack/$1" ] || die "missing from the pack: $1"; }

same() { cmp -s -- "$1" "$2" || die "$3"; }

size_of() { wc -c <"$1" | tr -d ' '; }

sha() { sha256sum <"$1" | cut -c1-64; }

# Decode base64 that has only one spelling. unbase64 IN OUT WHAT
unbase64() {
  base64 -d <"$1" >"$2" 2>/dev/null || die "$3 is not base64"
  [ "$(base64 -w0 <"$2")" = "$(cat "$1")" ] || die "$3 is not in its one base64 form"
}

# split_note FILE WHAT: the text to $work/text, the signature lines to $work/lines
split_note() {
  blank=$(grep -n '^$' "$1" | head -n 1 | cut -d: -f1)
  [ -n "$blank" ] || die "the $2 has no signatures"
  head -n $((blank - 1)) "$1" >"$work/text"
  tail -n +$((blank + 1)) "$1" >"$work/lines"
  { cat "$work/text"; echo; cat "$work/lines"; } >"$work/again"
  same "$work/again" "$1" "the $2 is cut off"
  [ -s "$work/text" ] || die "the $2 is empty"
  [ -s "$work/lines" ] || die "the $2 has no signatures"
  [ "$(tail -c 1 "$1" | xxd -p)" = 0a ] || die "the $2 is cut off"
}

# key_id NAME TYPE-IN-HEX PUBLIC-KEY-FILE
key_id() {
  { printf '%s\n' "$1"; printf %s "$2" | xxd -r -p; cat "$3"; } >"$work/id"
  sha "$work/id" | cut -c1-8
}

# signature_of LINE-NUMBER NAME KEY-ID WHAT: the signature to $work/sig
signature_of() {
  line=$(sed -n "${1}p" "$work/lines")
  encoded=${line#"— $2 "}
  [ "$encoded" != "$line" ] || die "the $4 is not signed by $2"
  printf %s "$encoded" >"$work/sig64"
  unbase64 "$work/sig64" "$work/sigraw" "a signature of the $4"
  [ "$(head -c 4 "$work/sigraw" | xxd -p)" = "$3" ] || die "the $4 is signed by another key"
  tail -c +5 "$work/sigraw" >"$work/sig"
}

# raw_ed25519 PEM OUT: the 32 bytes
raw_ed25519() {
  openssl pkey -pubin -in "$1" -outform DER >"$work/der" 2>/dev/null || die "$1 is not a public key"
  [ "$(head -c 12 "$work/der" | xxd -p)" = 302a300506032b6570032100 ] || die "$1 is not Ed25519"
  tail -c +13 "$work/der" >"$2"
  [ "$(size_of "$2")" = 32 ] || die "$1 is not Ed25519"
}

# check_ed25519 PEM TEXT SIG WHAT
check_ed25519() {
  [ "$(size_of "$3")" = 64 ] || die "the signature of the $4 has a wrong length"
  openssl pkeyutl -verify -pubin -inkey "$1" -rawin -in "$2" -sigfile "$3" >/dev/null 2>&1 ||
    die "the signature of the $4 does not hold"
}

# tile_path NUMBER: 1234067 -> x001/x234/067
tile_path() {
  n=$1
  p=$(printf %03d $((n % 1000)))
  n=$((n / 1000))
  while [ "$n" -gt 0 ]; do
    p=x$(printf %03d $((n % 1000)))/$p
    n=$((n / 1000))
  done
  printf %s "$p"
}

# hash_lines IN OUT: each line of hex is bytes of one length ($3); its sha256 in hex
hash_lines() {
  rm -rf "$work/h"
  mkdir "$work/h"
  xxd -r -p <"$1" | (cd "$work/h" && split -a 6 -b "$3")
  (cd "$work/h" && find . -type f | sort | sed 's|^\./||' | xargs sha256sum) | cut -c1-64 >"$2"
  [ "$(wc -l <"$2")" -eq "$(wc -l <"$1")" ] || die "hashing went wrong"
}

# root_of_first N: the root over the first N leaves, in hex, to $work/top
root_of_first() {
  head -n "$1" "$work/leaves" >"$work/top"
  while [ "$(wc -l <"$work/top")" -gt 1 ]; do
    count=$(wc -l <"$work/top")
    head -n $((count / 2 * 2)) "$work/top" | paste -d '\0' - - | sed 's/^/01/' >"$work/pairs"
    hash_lines "$work/pairs" "$work/next" 65
    if [ $((count % 2)) -eq 1 ]; then tail -n 1 "$work/top" >>"$work/next"; fi
    mv "$work/next" "$work/top"
  done
}

# goes_on_from: the log begins with the entries of every checkpoint that was noted earlier
goes_on_from() {
  for earlier in $noted; do
    n=${earlier%%:*}
    [ "$n" -le "$size" ] || die "the log has $size entries; $n were noted earlier"
    root_of_first "$n"
    [ "$(xxd -r -p <"$work/top" | base64 -w0)" = "${earlier#*:}" ] ||
      die "the first $n entries are not the ones that were noted earlier"
  done
}

# name_witness FILE NAME: by its name only when its key is among the given fingerprints
name_witness() {
  finger=$(grep -F -e "  $1" "$work/fingers" | cut -c1-64)
  case " $trusted " in
    *" $finger "*)
      say "checkpoint: cosigned by $2"
      known=$((known + 1))
      ;;
    *) say "note: cosigned by an unknown key: $finger" ;;
  esac
}

# facts_of PAYLOAD: what the list of drills needs of one statement, a line for each fact. The rules for a
# PASS are those of zaibei/evidence/pass_rules.py.
facts_of() {
  awk '
  function fail() { bad = 1; exit 1 }
  function text(    from, c) {
    from = ++at
    while ((c = substr(s, at, 1)) != "\"") {
      if (c == "" ) fail()
      at += (c == "\\") ? 2 : 1
    }
    return substr(s, from, at++ - from)
  }
  function value(path,    c, from, key, n) {
    c = substr(s, at, 1)
    from = at
    if (c == "\"") V[path] = "\"" text() "\""
    else if (c == "{" || c == "[") {
      at++
      T[path] = c
      if (substr(s, at, 1) == (c == "{" ? "}" : "]")) at++
      else
        for (n = 0; ; n++) {
          key = n
          if (c == "{") {
            if (substr(s, at, 1) != "\"") fail()
            key = text()
            if (substr(s, at++, 1) != ":") fail()
          }
          value(path SEP key)
          N[path] = n + 1
          key = substr(s, at++, 1)
          if (key == (c == "{" ? "}" : "]")) break
          if (key != ",") fail()
        }
    } else {
      if (!match(substr(s, at, 64), /^[-+0-9.eEa-z]+/)) fail()
      V[path] = substr(s, at, RLENGTH)
      at += RLENGTH
    }
    if (path == P "required" || index(path, P "due" SEP) == 1) RAW[path] = substr(s, from, at - from)
  }
  function number(name) { return (P name) in V && V[P name] ~ /^-?[0-9]/ }
  function amount(name) { return V[P name] + 0 }
  function some(name) { return number(name) && amount(name) != 0 }
  function unfit(    i, j, name, needed, got, goal, lost, held, listed, told) {
    goal = "objective" SEP "rpo_s"
    lost = "objects" SEP "lost"
    if (!number(goal) || amount(goal) < 0 || !some("acked") || !number("lost") || !number(lost)) return 1
    if (some("lost") || some(lost)) {
      if (amount(goal) == 0 || !some("rpo_s") || amount("rpo_s") > amount(goal)) return 1
      if (amount("lost") >= amount("acked")) return 1
    }
    if (!number("phantoms") || !number("resurrected") || !number("epoch_overlap")) return 1
    if (some("phantoms") || some("resurrected") || some("epoch_overlap")) return 1
    goal = "objective" SEP "rto_s"
    if (!number(goal) || amount(goal) <= 0) return 1
    if (!number("rto_first_s") || !number("rto_stable_s")) return 1
    if (amount("rto_first_s") > amount(goal) || amount("rto_stable_s") > amount(goal)) return 1
    if (V[P "negative_control" SEP "condemned"] != "true") return 1
    for (i = 0; i < N[P "checks"]; i++) {
      j = P "checks" SEP i SEP
      if (V[j "ran"] != "true" || V[j "passed"] != "true") return 1
      held[V[j "name"]] = 1
    }
    if (T[P "checks"] != "[" || T[P "required"] != "[") return 1
    for (i = 0; i < N[P "required"]; i++) {
      name = V[P "required" SEP i]
      listed[name] = 1
      if (!(name in held)) return 1
    }
    needed = "ledger-whole takeover backup-committed restore-verified replicas-agree objects-converged" \
      " failback nothing-left negative-control"
    if (T[P "surge"] != "" || ((P "surge") in V && V[P "surge"] != "null")) needed = needed " surge-generator"
    split(needed, got, " ")
    for (i in got) if (!(("\"" got[i] "\"") in listed)) return 1
    j = 0
    for (i = 0; i < N["subject"]; i++) {
      name = V["subject" SEP i SEP "name"]
      told[name] = V["subject" SEP i SEP "digest" SEP "sha256"]
      if (name == "\"ledger.jsonl\"" || name == "\"ledger.jsonl.gz\"") j = 1
    }
    if (!j || T[P "artefacts"] != "[" || N[P "artefacts"] != N["subject"]) return 1
    for (i = 0; i < N[P "artefacts"]; i++) {
      j = P "artefacts" SEP i SEP
      if (!(V[j "name"] in told) || told[V[j "name"]] != V[j "sha256"]) return 1
      delete told[V[j "name"]]
    }
    return 0
  }
  { s = s $0 }
  END {
    if (bad) exit 1
    SEP = "\034"
    P = "predicate" SEP
    at = 2
    if (s ~ /[\001-\037]/) fail()
    for (;;) {
      key = text()
      if (substr(s, at++, 1) != ":") fail()
      value(key)
      c = substr(s, at++, 1)
      if (c == "}") break
      if (c != ",") fail()
    }
    if (at != length(s) + 1) fail()
    verdict = V[P "verdict"]
    gsub(/"/, "", verdict)
    if (verdict != "PASS" && verdict != "FAIL" && verdict != "INVALID") verdict = "no verdict"
    print "verdict\t" verdict
    print "scenario\t" V[P "scenario"]
    print "stamp\t" V[P "recorded_at"]
    print "required\t" RAW[P "required"]
    if (verdict == "PASS" && unfit()) print "denied\t1"
    if (T[P "due"] != "[") print "due\t!"
    for (i = 0; i < N[P "due"]; i++) print "due\t" RAW[P "due" SEP i]
  }' "$1"
}

# list_drills: every drill of the log with its verdict, every schedule with what answered it
list_drills() {
  : >"$work/facts"
  while read -r i kind drill; do
    case $kind in
      schedule/v1 | intent/v1 | drill/v1 | aborted/v1) ;;
      *) continue ;;
    esac
    chosen=0
    if grep -q -x -e "$i" "$work/taken"; then chosen=1; fi
    facts_of "$work/payload/$(printf %07d "$i")" >"$work/some" || die "the statement of entry $i cannot be read"
    printf 'entry\t%s\t%s\t%s\t%s\n' "$i" "${kind%/*}" "$drill" "$chosen" >>"$work/facts"
    cat "$work/some" >>"$work/facts"
  done <"$work/table"
  awk -F '\t' -v packed="$(sed -n 4p "$work/text.manifest" | cut -c8-)" '
  function plain(stamp) {
    gsub(/"/, "", stamp)
    if (stamp !~ /^[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9](\.[0-9]+)?Z$/) return ""
    return stamp
  }
  function later(stamp) { if (substr(stamp, 1, 19) > substr(now, 1, 19)) now = stamp }
  function field(item, name,    a) {
    a = item
    if (!sub("^.*\"" name "\":\"", "", a)) return ""
    sub(/".*$/, "", a)
    return a
  }
  function known(item) {
    if (item !~ /^{"by":"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9](T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]Z)?"(,"drill":"[A-Za-z0-9][A-Za-z0-9_-]*")?(,"every_s":[0-9]+)?(,"owner":"[^"\\]*")?(,"scenario":"[A-Za-z0-9][A-Za-z0-9_-]*")?}$/) return 0
    if ((item ~ /,"drill":"/) + (item ~ /,"scenario":"[^"]*"}$/) != 1) return 0
    return length(name_of(item)) <= 80
  }
  function name_of(item) { return item ~ /,"drill":"/ ? field(item, "drill") : field(item, "scenario") }
  function answer(at, item,    by, name, n, j, late) {
    by = field(item, "by")
    name = name_of(item)
    n = length(by) == 10 ? 10 : 19
    for (j = at + 1; j <= count; j++) {
      if (kind[j] != "drill" || (verdict[j] != "PASS" && verdict[j] != "FAIL")) continue
      if (scenario[j] != "\"" name "\"" && drill[j] != name) continue
      if (stamp[j] == "") continue
      late = substr(stamp[j], 1, n) > substr(by, 1, n)
      return name " by " by ": " (late ? "overdue, run late, " : "met, ") drill[j] " " verdict[j]
    }
    return name " by " by ": " (substr(now, 1, n) > substr(by, 1, n) ? "overdue" : "due")
  }
  BEGIN { now = packed }
  $1 == "entry" { count++; entry[count] = $2; kind[count] = $3; drill[count] = $4; chosen[count] = $5 }
  $1 == "verdict" { verdict[count] = $2 }
  $1 == "scenario" { scenario[count] = $2 }
  $1 == "required" { required[count] = $2 }
  $1 == "stamp" { stamp[count] = plain($2); later(stamp[count]) }
  $1 == "denied" { denied[count] = 1 }
  $1 == "due" { item[count, ++items[count]] = $2 }
  END {
    for (j = 1; j <= count; j++) {
      if (kind[j] == "intent") { announced[drill[j]] = j; order[++drills] = j }
      else if (kind[j] != "schedule") end[drill[j]] = j
      if (kind[j] == "schedule") schedules++
    }
    for (k = 1; k <= drills; k++) {
      intent = order[k]
      j = drill[intent] in end ? end[drill[intent]] : intent
      word = verdict[j]
      if (kind[j] == "intent") word = "no end in this log"
      if (kind[j] == "aborted") word = "aborted"
      if (word == "PASS" && (denied[j] || required[j] != required[intent])) word = "INVALID, recorded as PASS"
      print "drill " drill[j] ": " word (chosen[j] ? "" : " (not chosen)")
    }
    if (!schedules) print "note: schedule: none"
    for (j = 1; j <= count; j++) {
      if (kind[j] != "schedule") continue
      odd = 0
      for (k = 1; k <= items[j]; k++) if (!known(item[j, k])) odd = 1
      if (odd) print "note: schedule " entry[j] ": not in a form that can be compared; read it"
      else for (k = 1; k <= items[j]; k++) print "schedule " entry[j] ": " answer(j, item[j, k])
    }
  }' "$work/facts" || die "the list of drills could not be made"
}

# --- 1. the manifest and every file ------------------------------------------------------------------

have MANIFEST
have keys/ed25519.pub
have keys/p256.pub
have keys/FINGERPRINTS.txt
have log/checkpoint
edkey=$pack/keys/ed25519.pub
raw_ed25519 "$edkey" "$work/ed.raw"

split_note "$pack/MANIFEST" manifest
[ "$(wc -l <"$work/lines")" -eq 1 ] || die "the manifest does not have exactly one signature"
[ "$(sed -n 1p "$work/text")" = urn:zaibei:pack/v1 ] || die "not a pack of a known form"
title=$(sed -n 2p "$work/text")
logline=$(sed -n 3p "$work/text")
sed -n 4p "$work/text" | grep -q -x 'packed [0-9TZ:.-]*' || die "the manifest is malformed"
origin=$(printf '%s\n' "$logline" | cut -d' ' -f2)
printf '%s' "$origin" | grep -q -x '[a-zA-Z0-9:./_-][a-zA-Z0-9:./_-]*' || die "the manifest is malformed"
signature_of 1 "$origin" "$(key_id "$origin" 01 "$work/ed.raw")" manifest
check_ed25519 "$edkey" "$work/text" "$work/sig" manifest

cp "$work/text" "$work/text.manifest"
tail -n +5 "$work/text" >"$work/sums"
if grep -q -v -x '[0-9a-f]\{64\}  [A-Za-z0-9._/-][A-Za-z0-9._/-]*' "$work/sums"; then
  die "the manifest is malformed"
fi
cut -c67- "$work/sums" >"$work/listed"
if grep -q -e '^/' -e '//' -e '/$' -e '^\.\.*/' -e '/\.\.*/' -e '/\.\.*$' "$work/listed"; then
  die "the manifest names a path outside the pack"
fi
{ cat "$work/listed"; echo MANIFEST; } | sort >"$work/due"
[ -z "$(uniq -d "$work/due")" ] || die "the manifest names a file twice"
odd=$(cd "$pack" && find . ! -type f ! -type d)
[ -z "$odd" ] || die "neither a file nor a folder: $odd"
odd=$(cd "$pack" && find . -type d -empty)
[ -z "$odd" ] || die "an empty folder: $odd"
(cd "$pack" && find . -type f) | sed 's|^\./||' | sort >"$work/there"
if ! cmp -s "$work/due" "$work/there"; then
  sort "$work/due" "$work/due" "$work/there" | uniq -c | grep -v '^ *3 ' >&2 || :
  die "files missing (2) or not in the manifest (1), see above"
fi
(cd "$pack" && sha256sum -c --strict --quiet "$work/sums") >"$work/bad" 2>&1 ||
  die "changed since it was packed: $(head -n 1 "$work/bad")"
if grep -q -v -E '^((verify\.sh|VERIFY\.(en|zh)\.md)$|(keys|runs|log|proofs|schedule)/)' "$work/listed"; then
  die "a file that does not belong in a pack"
fi
say "manifest: every file is signed for, none is missing, none is extra"

# --- 2. the keys -------------------------------------------------------------------------------------

grep '^keys/' "$work/listed" | cut -c6- | grep -v -x 'FINGERPRINTS\.txt' | sort >"$work/keyfiles"
if grep -q -v -x -e 'p256\.pub' -e 'ed25519\.pub' -e 'sm2\.pub' -e 'witness-[A-Za-z0-9_-]*\.pub' "$work/keyfiles"; then
  die "a key that does not belong in a pack"
fi
: >"$work/fingers"
while read -r name; do
  # The bytes between the PEM lines, so that a key of a kind openssl does not know has one too.
  grep -v '^-----' "$pack/keys/$name" | tr -d '\n' >"$work/pem64"
  unbase64 "$work/pem64" "$work/der" "keys/$name"
  finger=$(sha "$work/der")
  printf '%s  %s\n' "$finger" "$name" >>"$work/fingers"
  case $name in witness-*) continue ;; esac
  if [ -n "$trusted" ]; then
    case " $trusted " in
      *" $finger "*) ;;
      *) die "$name has another fingerprint than the ones given: $finger" ;;
    esac
  fi
done <"$work/keyfiles"
same "$work/fingers" "$pack/keys/FINGERPRINTS.txt" "FINGERPRINTS.txt does not tell the fingerprints of the keys"
keyid=$(grep '  p256\.pub$' "$work/fingers" | cut -c1-64)
[ ${#keyid} -eq 64 ] || die "no statement key"
openssl pkey -pubin -in "$pack/keys/p256.pub" -text -noout 2>/dev/null | grep -q 'NIST CURVE: P-256' ||
  die "the statement key is not P-256"

# --- 3. the checkpoint -------------------------------------------------------------------------------

split_note "$pack/log/checkpoint" checkpoint
[ "$(wc -l <"$work/text")" -eq 3 ] || die "the checkpoint is not origin, size and root"
[ "$(sed -n 1p "$work/text")" = "$origin" ] || die "the checkpoint is of another log"
size=$(sed -n 2p "$work/text")
printf '%s' "$size" | grep -q -x '[1-9][0-9]\{0,6\}' || die "the log is empty or its size is malformed"
[ "$size" -le "$MAX_ENTRIES" ] || die "the log is longer than this script can check"
root=$(sed -n 3p "$work/text")
[ "log $origin $size $root" = "$logline" ] || die "the manifest and the checkpoint speak of different logs"
signature_of 1 "$origin" "$(key_id "$origin" 01 "$work/ed.raw")" checkpoint
check_ed25519 "$edkey" "$work/text" "$work/sig" checkpoint
at=2
if grep -q -x 'sm2\.pub' "$work/keyfiles"; then
  grep -v '^-----' "$pack/keys/sm2.pub" | tr -d '\n' | base64 -d >"$work/sm2.der"
  kind=ff$(printf %s urn:zaibei:sm2-sm3/v1 | xxd -p | tr -d '\n')
  signature_of 2 "$origin" "$(key_id "$origin" "$kind" "$work/sm2.der")" checkpoint
  openssl pkeyutl -verify -pubin -inkey "$pack/keys/sm2.pub" -in "$work/text" -rawin -digest sm3 \
    -pkeyopt distid:1234567812345678 -sigfile "$work/sig" >/dev/null 2>&1 ||
    die "the SM2 signature does not hold, or this openssl cannot check it"
  at=3
  say "checkpoint: Ed25519 and SM2 signatures hold"
else
  say "checkpoint: the Ed25519 signature holds; there is no SM2 line"
fi
total=$(wc -l <"$work/lines")
: >"$work/watched"
known=0
while [ "$at" -le "$total" ]; do
  name=$(sed -n "${at}p" "$work/lines" | cut -d' ' -f2)
  file=witness-${name#urn:zaibei:witness:}.pub
  [ "urn:zaibei:witness:${name#urn:zaibei:witness:}" = "$name" ] || die "a line of the checkpoint has no key in the pack"
  grep -q -F -x -e "$file" "$work/keyfiles" || die "a line of the checkpoint has no key in the pack"
  raw_ed25519 "$pack/keys/$file" "$work/w.raw"
  signature_of "$at" "$name" "$(key_id "$name" 04 "$work/w.raw")" checkpoint
  head -c 8 "$work/sig" | xxd -p >"$work/stamp"
  tail -c +9 "$work/sig" >"$work/wsig"
  { printf 'cosignature/v1\ntime %d\n' "0x$(cat "$work/stamp")"; cat "$work/text"; } >"$work/cosigned"
  check_ed25519 "$pack/keys/$file" "$work/cosigned" "$work/wsig" "checkpoint by $name"
  name_witness "$file" "$name"
  printf '%s\n' "$file" >>"$work/watched"
  at=$((at + 1))
done
grep '^witness-' "$work/keyfiles" >"$work/watching" || :
sort "$work/watched" >"$work/again"
same "$work/again" "$work/watching" "a witness key has no line in the checkpoint"
if [ ! -s "$work/watching" ]; then
  say "note: no witness signed the checkpoint"
elif [ "$known" -eq 0 ]; then
  say "note: no witness whose key was compared signed the checkpoint"
fi

# --- 4. the log: every entry under the root ----------------------------------------------------------

mkdir "$work/entry" "$work/leaf" "$work/payload"
: >"$work/logfiles"
echo log/checkpoint >>"$work/logfiles"
i=0
bundle=0
while [ "$i" -lt "$size" ]; do
  width=$((size - i))
  file=log/tile/entries/$(tile_path "$bundle")
  if [ "$width" -ge 256 ]; then width=256; else file=$file.p/$width; fi
  have "$file"
  echo "$file" >>"$work/logfiles"
  length=$(size_of "$pack/$file")
  at=0
  k=0
  while [ "$k" -lt "$width" ]; do
    hex=$(tail -c +$((at + 1)) "$pack/$file" | head -c 2 | xxd -p)
    [ ${#hex} -eq 4 ] || die "the log is cut off at entry $i"
    n=$((0x$hex))
    name=$(printf %07d "$i")
    tail -c +$((at + 3)) "$pack/$file" | head -c "$n" >"$work/entry/$name"
    [ "$(size_of "$work/entry/$name")" = "$n" ] || die "the log is cut off at entry $i"
    { printf '\000'; cat "$work/entry/$name"; } >"$work/leaf/$name"
    at=$((at + 2 + n))
    k=$((k + 1))
    i=$((i + 1))
  done
  [ "$at" -eq "$length" ] || die "a bundle of entries holds more than it should"
  bundle=$((bundle + 1))
done
(cd "$work/leaf" && find . -type f | sort | xargs sha256sum) | cut -c1-64 >"$work/leaves"
[ "$(wc -l <"$work/leaves")" -eq "$size" ] || die "hashing went wrong"

cp "$work/leaves" "$work/now"
height=0
while :; do
  if [ $((height % 8)) -eq 0 ]; then
    whole=$((size >> height))
    level=$((height / 8))
    number=0
    while [ "$whole" -gt 0 ]; do
      width=$whole
      file=log/tile/$level/$(tile_path "$number")
      if [ "$width" -ge 256 ]; then width=256; else file=$file.p/$width; fi
      have "$file"
      echo "$file" >>"$work/logfiles"
      tail -n +$((number * 256 + 1)) "$work/now" | head -n "$width" | xxd -r -p >"$work/tile"
      same "$work/tile" "$pack/$file" "a tile does not hold the hashes of the log: $file"
      whole=$((whole - width))
      number=$((number + 1))
    done
  fi
  count=$(wc -l <"$work/now")
  [ "$count" -gt 1 ] || break
  head -n $((count / 2 * 2)) "$work/now" | paste -d '\0' - - | sed 's/^/01/' >"$work/pairs"
  hash_lines "$work/pairs" "$work/next" 65
  if [ $((count % 2)) -eq 1 ]; then tail -n 1 "$work/now" >>"$work/next"; fi
  mv "$work/next" "$work/now"
  height=$((height + 1))
done
[ "$(xxd -r -p <"$work/now" | base64 -w0)" = "$root" ] || die "the log is not what its checkpoint signs"
roothex=$(cat "$work/now")
grep '^log/' "$work/listed" | sort >"$work/again"
sort "$work/logfiles" >"$work/logdue"
same "$work/again" "$work/logdue" "the log has files too many or too few"
goes_on_from
say "log: $size entries, each under the signed root"

# --- 5. every statement: its signature and its form --------------------------------------------------

envelope='{"payload":"[A-Za-z0-9+/=]*","payloadType":"application/vnd\.in-toto+json","signatures":\[{"keyid":"[0-9a-f]\{64\}","sig":"[A-Za-z0-9+/=]*"}\]}'
tail_form=',"predicateType":"urn:zaibei:\([a-z-]*\/v[1-9]\)","subject":\[\([^]]*\)\]}'
item='{"digest":{"sha256":"\([0-9a-f]\{64\}\)"},"name":"\([A-Za-z0-9_][A-Za-z0-9._/-]*\)"}'
: >"$work/table"
i=0
while [ "$i" -lt "$size" ]; do
  name=$(printf %07d "$i")
  e=$work/entry/$name
  p=$work/payload/$name
  [ "$(wc -l <"$e")" -eq 0 ] || die "entry $i is not one line"
  grep -q -x "$envelope" "$e" || die "entry $i is not an envelope in its one form"
  sed 's/^{"payload":"\([^"]*\)".*$/\1/' "$e" >"$work/p64"
  unbase64 "$work/p64" "$p" "the statement of entry $i"
  sed 's/^.*"sig":"\([^"]*\)"}\]}$/\1/' "$e" >"$work/s64"
  unbase64 "$work/s64" "$work/s.der" "the signature of entry $i"
  [ "$(sed 's/^.*{"keyid":"\([0-9a-f]*\)","sig":"[^"]*"}\]}$/\1/' "$e")" = "$keyid" ] ||
    die "entry $i is signed by another key"
  { printf 'DSSEv1 %d %s %d ' ${#T} "$T" "$(size_of "$p")"; cat "$p"; } >"$work/pae"
  openssl dgst -sha256 -verify "$pack/keys/p256.pub" -signature "$work/s.der" "$work/pae" >/dev/null 2>&1 ||
    die "the signature of entry $i does not hold"

  [ "$(wc -l <"$p")" -eq 0 ] || die "the statement of entry $i is not one line"
  grep -q '^{"_type":"https://in-toto\.io/Statement/v1","predicate":{' "$p" || die "entry $i is not a statement"
  kind=$(sed -n "s/^.*$tail_form\$/\\1/p" "$p")
  [ -n "$kind" ] || die "entry $i is not a statement in its one form"
  sed -n "s/^.*$tail_form\$/\\2/p" "$p" | sed 's/},{/}|{/g' | tr '|' '\n' | grep . >"$work/items" || :
  if grep -q -v -x "$item" "$work/items"; then die "a subject of entry $i is malformed"; fi
  sed "s/^$item\$/\\1  \\2/" "$work/items" >"$p.subjects"
  drills=$(grep -o '"drill_id":' "$p" | wc -l)
  drill=$(sed -n 's/^.*"drill_id":"\([A-Za-z0-9_-]*\)".*$/\1/p' "$p")
  case $kind in
    intent/v1 | drill/v1 | aborted/v1 | switch-back/v1)
      [ "$drills" -eq 1 ] || die "entry $i names no drill, or more than one"
      ;;
    *) [ "$drills" -le 1 ] || die "entry $i names more than one drill" ;;
  esac
  if [ "$drills" -eq 1 ]; then [ -n "$drill" ] || die "the drill of entry $i is malformed"; else drill=-; fi
  printf '%s %s %s\n' "$i" "$kind" "$drill" >>"$work/table"
  i=$((i + 1))
done
say "statements: every signature holds"

# --- 6. the order: no outcome without its intent, one of each ----------------------------------------

: >"$work/seen"
while read -r i kind drill; do
  case $kind in
    intent/v1)
      if grep -q -F -x -e "intent $drill" "$work/seen"; then die "a second intent for $drill"; fi
      echo "intent $drill" >>"$work/seen"
      ;;
    drill/v1 | aborted/v1 | switch-back/v1)
      grep -q -F -x -e "intent $drill" "$work/seen" || die "entry $i: ${kind%/*} of $drill without its intent"
      if [ "$kind" != switch-back/v1 ]; then
        if grep -q -F -x -e "end $drill" "$work/seen"; then die "a second end for $drill"; fi
        echo "end $drill" >>"$work/seen"
      fi
      ;;
  esac
done <"$work/table"
grep '^intent ' "$work/seen" | cut -d' ' -f2 >"$work/intents" || :
while read -r drill; do
  grep -q -F -x -e "end $drill" "$work/seen" || say "note: $drill was announced and has no end in this log"
done <"$work/intents"
say "order: every outcome has its intent before it"

# --- 7. the chosen entries: their files, artefacts and proofs ----------------------------------------

grep '^runs/' "$work/listed" | cut -d/ -f2 | sort -u >"$work/runs"
[ -s "$work/runs" ] || die "the pack holds no entry"
: >"$work/proofdue"
: >"$work/taken"
while read -r run; do
  printf '%s' "$run" | grep -q -x '[0-9]\{6,7\}-[a-z-]*' || die "runs/$run is not an entry of the log"
  i=$(printf '%s' "${run%%-*}" | sed 's/^0*//')
  i=${i:-0}
  [ "$i" -lt "$size" ] || die "runs/$run is not an entry of the log"
  name=$(printf %07d "$i")
  kind=$(sed -n "$((i + 1))p" "$work/table" | cut -d' ' -f2)
  [ "$run" = "$(printf %06d "$i")-${kind%/*}" ] || die "runs/$run is not an entry of the log"
  have "runs/$run/statement.json"
  have "runs/$run/statement.dsse.json"
  same "$work/payload/$name" "$pack/runs/$run/statement.json" "runs/$run/statement.json is not what was logged"
  same "$work/entry/$name" "$pack/runs/$run/statement.dsse.json" "runs/$run/statement.dsse.json is not what was logged"
  sed "s|  |  runs/$run/artifacts/|" "$work/payload/$name.subjects" | sort >"$work/want"
  grep -F -e "  runs/$run/" "$work/sums" | grep -v -x -e "[0-9a-f]*  runs/$run/statement\.json" \
    -e "[0-9a-f]*  runs/$run/statement\.dsse\.json" | sort >"$work/got" || :
  same "$work/want" "$work/got" "the artefacts of runs/$run are not those of its statement"

  have "proofs/$run.txt"
  echo "proofs/$run.txt" >>"$work/proofdue"
  proof=$pack/proofs/$run.txt
  blank=$(grep -n '^$' "$proof" | head -n 1 | cut -d: -f1)
  [ "${blank:-0}" -ge 3 ] || die "the proof of $run is malformed"
  [ "$(sed -n 1p "$proof")" = c2sp.org/tlog-proof@v1 ] || die "the proof of $run is malformed"
  [ "$(sed -n 2p "$proof")" = "index $i" ] || die "the proof of $run is of another entry"
  tail -n +$((blank + 1)) "$proof" >"$work/again"
  same "$work/again" "$pack/log/checkpoint" "the proof of $run is of another checkpoint"
  head -n $((blank - 1)) "$proof" | tail -n +3 >"$work/path"
  result=$(sed -n "$((i + 1))p" "$work/leaves")
  fn=$i
  sn=$((size - 1))
  while read -r sibling; do
    printf %s "$sibling" >"$work/sib64"
    unbase64 "$work/sib64" "$work/sib" "the proof of $run"
    sibling=$(xxd -p <"$work/sib" | tr -d '\n')
    [ ${#sibling} -eq 64 ] || die "the proof of $run is malformed"
    [ "$sn" -gt 0 ] || die "the proof of $run is too long"
    if [ $((fn % 2)) -eq 1 ] || [ "$fn" -eq "$sn" ]; then
      printf '01%s%s' "$sibling" "$result" | xxd -r -p >"$work/node"
      while [ $((fn % 2)) -eq 0 ] && [ "$fn" -ne 0 ]; do
        fn=$((fn / 2))
        sn=$((sn / 2))
      done
    else
      printf '01%s%s' "$result" "$sibling" | xxd -r -p >"$work/node"
    fi
    result=$(sha "$work/node")
    fn=$((fn / 2))
    sn=$((sn / 2))
  done <"$work/path"
  [ "$sn" -eq 0 ] || die "the proof of $run is too short"
  [ "$result" = "$roothex" ] || die "the proof of $run does not lead to the root"
  echo "$i" >>"$work/taken"
  say "entry $run: statement, artefacts and proof hold"
done <"$work/runs"
grep '^proofs/' "$work/listed" | sort >"$work/again" || :
sort "$work/proofdue" >"$work/due"
same "$work/again" "$work/due" "there are proofs of entries that are not in the pack"

while read -r i; do
  drill=$(sed -n "$((i + 1))p" "$work/table" | cut -d' ' -f3)
  [ "$drill" != - ] || continue
  grep -e " $drill\$" "$work/table" | cut -d' ' -f1 >"$work/together"
  while read -r other; do
    grep -q -x -e "$other" "$work/taken" || die "entry $other belongs to $drill and was left out"
  done <"$work/together"
done <"$work/taken"

: >"$work/due"
grep -e ' schedule/v1 ' "$work/table" | cut -d' ' -f1 >"$work/schedules" || :
while read -r i; do
  name=$(printf %07d "$i")
  file=schedule/$(printf %06d "$i")-schedule.json
  have "$file"
  same "$work/payload/$name" "$pack/$file" "$file is not what was logged"
  echo "$file" >>"$work/due"
done <"$work/schedules"
grep '^schedule/' "$work/listed" >"$work/again" || :
same "$work/again" "$work/due" "the schedule is not the one in the log"

# --- 8. what else is in the log ----------------------------------------------------------------------

list_drills

# --- the end -----------------------------------------------------------------------------------------

say ""
say "pack:  $title"
say "log:   $origin, $size entries, root $root"
say "checkpoint $size:$root"
if [ -n "$trusted" ]; then
  say "keys:  they are the ones whose fingerprints were given"
else
  say "keys:  NOT COMPARED. Compare these with the signed report or with whoever runs the system:"
  sed 's/^/       /' "$work/fingers"
fi
verified=yes
say "VERIFIED"
