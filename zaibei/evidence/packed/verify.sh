#!/bin/sh
# Checks an evidence pack with sh, awk, openssl, xxd and the usual POSIX tools. Nothing else is needed.
#
#   sh verify.sh [--fingerprint HEX]... [--at-least SIZE:ROOT]... [PACK]
#
# PACK: the folder of the pack; without it, the folder this script lies in. --fingerprint: once for each
# key, as printed in the signed report; then a pack made with other keys is refused, one without a key whose
# fingerprint was given too, and a witness has a name only when its key is among them.
# --at-least: a checkpoint noted earlier; the log must go on from it.
# Ends with 0 and the word VERIFIED only after the last check; otherwise with 8, or with 2 when it was not
# called as above. The last line is the verdict; what others wrote (names, the title) is printed escaped.
# It fails closed: there is no `[ a = b ] && ok` here, every test is followed by `|| die`.
set -eu
LC_ALL=C
export LC_ALL
unset CDPATH POSIXLY_CORRECT || :

MAX_ENTRIES=1000000
MAX_BLOCKS=131072 # of 512 bytes, of one file that is not an artefact
KINDS="schedule intent drill aborted switch-back action admission restore surge runbook witnesses authorisation"
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

# Bytes as `od -An -v -tu1` lists them, written for people: what would move a cursor, hide text or turn it
# around is spelt out (\x1b, \u202e), a byte that is no UTF-8 as \xff. The line feed stays with lines=1.
# shellcheck disable=SC2016
EYES='
  function unseen(u) {
    return u < 32 || (u >= 127 && u < 160) || u == 173 || (u >= 1536 && u <= 1541) || u == 1564 || u == 1757 ||
      u == 1807 || u == 6158 || (u >= 8203 && u <= 8207) || (u >= 8232 && u <= 8238) || (u >= 8288 && u <= 8303) ||
      (u >= 57344 && u <= 63743) || u == 65279 || (u >= 65529 && u <= 65531) || u >= 917504
  }
  function put(u) {
    if (u == 10 && lines) printf "\n"
    else if (u in SHORT) printf "%s", SHORT[u]
    else if (u < 256) printf "\\x%02x", u
    else if (u < 65536) printf "\\u%04x", u
    else printf "\\U%08x", u
    held = ""
  }
  function broken() {
    printf "%s", HEX
    HEX = held = ""
    due = 0
  }
  function byte(b) {
    if (due && (b < low || b > high)) broken()
    if (due) { u = u * 64 + b % 64; due-- }
    else if (b < 128) { u = b; low = 0 }
    else if (b >= 194 && b < 224) { u = b - 192; due = 1 }
    else if (b >= 224 && b < 240) { u = b - 224; due = 2 }
    else if (b >= 240 && b < 245) { u = b - 240; due = 3 }
    else { printf "\\x%02x", b; return }
    low = b == 224 ? 160 : b == 240 ? 144 : 128
    high = b == 237 ? 159 : b == 244 ? 143 : 191
    HEX = HEX sprintf("\\x%02x", b)
    held = held sprintf("%c", b)
    if (due) return
    HEX = ""
    if (unseen(u)) put(u)
    else { printf "%s", held; held = "" }
  }
  BEGIN { SHORT[9] = "\\t"; SHORT[10] = "\\n"; SHORT[13] = "\\r" }
  { for (f = 1; f <= NF; f++) byte($f + 0) }
  END { if (due) broken(); if (!lines) printf "\n" }
'

eyes() { od -An -v -tu1 | awk -v lines="${1:-0}" "$EYES"; }

die() {
  printf 'damage: ' >&2
  printf '%s' "$*" | eyes >&2
  exit 8
}

usage() {
  printf 'usage: ' >&2
  printf '%s' "$*" | eyes >&2
  exit 2
}

say() { printf '%s\n' "$*"; }

for tool in openssl xxd base64 sha256sum awk sed grep sort uniq head tail cut tr wc find cmp split paste od mktemp dirname; do
  command -v "$tool" >/dev/null 2>&1 || {
    printf 'damage: this machine has no %s\n' "$tool" >&2
    exit 8
  }
done

trusted=
noted=
here=$(dirname -- "$0")
pack=
while [ $# -gt 0 ]; do
  case $1 in
    --fingerprint)
      [ $# -ge 2 ] || usage "--fingerprint needs a value"
      case $2 in *[!0-9A-Fa-f:]*) usage "not a fingerprint: $2" ;; esac
      finger=$(printf %s "$2" | tr -d ':' | tr A-F a-f)
      case $finger in *[!0-9a-f]*) usage "not a fingerprint: $2" ;; esac
      [ ${#finger} -eq 64 ] || usage "not a fingerprint: $2"
      trusted="$trusted $finger"
      shift 2
      ;;
    --at-least)
      [ $# -ge 2 ] || usage "--at-least needs a value"
      case $2 in *[!0-9A-Za-z+/:=]*) usage "--at-least needs SIZE:ROOT as the report prints it" ;; esac
      printf '%s\n' "$2" | grep -q -x '[1-9][0-9]\{0,6\}:[A-Za-z0-9+/]\{43\}=' ||
        usage "--at-least needs SIZE:ROOT as the report prints it"
      [ "$(printf %s "${2#*:}" | base64 -d | base64 -w0)" = "${2#*:}" ] ||
        usage "--at-least needs SIZE:ROOT as the report prints it"
      noted="$noted $2"
      shift 2
      ;;
        -*) usage "unknown option $1" ;;
    *)
      [ -n "$1" ] || usage "a pack without a name"
      [ -z "$pack" ] || usage "one pack at a time"
      pack=$1
      shift
      ;;
  esac
done
# The point keeps what `$(…)` would drop: the folder "pack" with a line feed is not the folder "pack".
pack=$(cd -- "${pack:-$here}" && pwd && echo .) || usage "no such folder"
pack=${pack%?.}
work=$(mktemp -d) || die "no temporary folder"

# --- small parts -------------------------------------------------------------------------------------

have() { [ -f "$pack/$1" ] && [ ! -L "$pack/$1" ] || die "missing from the pack: $1"; }

same() { cmp -s -- "$1" "$2" || die "$3"; }

size_of() { wc -c <"$1" | tr -d ' '; }

sha() { sha256sum <"$1" | cut -c1-64; }

# plain_text FILE WHAT: a shell drops NUL bytes from what it reads, and would see another text
plain_text() { tr -d '\000' <"$1" | cmp -s - "$1" || die "the $2 is no text"; }

# Decode base64 that has only one spelling. unbase64 IN OUT WHAT
unbase64() {
  base64 -d <"$1" >"$2" 2>/dev/null || die "$3 is not base64"
  [ "$(base64 -w0 <"$2")" = "$(cat "$1")" ] || die "$3 is not in its one base64 form"
}

# split_note FILE WHAT: the text to $work/text, the signature lines to $work/lines
split_note() {
  plain_text "$1" "$2"
  blank=$(grep -n '^$' "$1" | head -n 1 | cut -d: -f1)
  [ -n "$blank" ] || die "the $2 has no signatures"
  head -n $((blank - 1)) "$1" >"$work/text"
  tail -n +$((blank + 1)) "$1" >"$work/lines"
  { cat "$work/text"; echo; cat "$work/lines"; } >"$work/again"
  same "$work/again" "$1" "the $2 is cut off"
  [ -s "$work/text" ] || die "the $2 is empty"
  [ -s "$work/lines" ] || die "the $2 has no signatures"
  [ "$(wc -l <"$work/lines")" -le 32 ] || die "the $2 has more than 32 signatures"
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

# key_file NAME: the key of keys/NAME to $work/key/NAME (PEM) and $work/key/NAME.der. It has one spelling, the
# PEM that openssl writes. Fingerprint and signatures are those of what is written here, never of the file:
# of a file that two parsers read differently, one would see the fingerprint of one key and another use a second.
key_file() {
  [ "$(size_of "$pack/keys/$1")" -le 4096 ] || die "keys/$1 is too long for a key"
  sed -e 1d -e '$d' "$pack/keys/$1" | tr -d '\n' >"$work/pem64"
  unbase64 "$work/pem64" "$work/key/$1.der" "keys/$1"
  {
    echo '-----BEGIN PUBLIC KEY-----'
    base64 -w64 <"$work/key/$1.der"
    echo '-----END PUBLIC KEY-----'
  } >"$work/key/$1"
  same "$work/key/$1" "$pack/keys/$1" "keys/$1 is not a public key in its one form"
  case $1 in
    p256.pub) frame=3059301306072a8648ce3d020106082a8648ce3d03010703420004 rest=64 ;;
    sm2.pub) frame=3059301306072a8648ce3d020106082a811ccf5501822d03420004 rest=64 ;;
    *) frame=302a300506032b6570032100 rest=32 ;;
  esac
  hex=$(xxd -p <"$work/key/$1.der" | tr -d '\n')
  case $hex in
    "$frame"*) [ ${#hex} -eq $((${#frame} + 2 * rest)) ] || die "keys/$1 is not of the kind its name says" ;;
    *) die "keys/$1 is not of the kind its name says" ;;
  esac
  openssl pkey -pubin -inform DER -in "$work/key/$1.der" -outform DER -out "$work/key.again" >/dev/null 2>&1 ||
    die "keys/$1 is not a key, or this openssl does not know its kind"
  same "$work/key.again" "$work/key/$1.der" "keys/$1 is not a public key in its one form"
}

# raw_ed25519 NAME OUT: the 32 bytes of a key that key_file has read
raw_ed25519() { tail -c 32 "$work/key/$1.der" >"$2"; }

# check_ed25519 PEM TEXT SIG WHAT
check_ed25519() {
  [ "$(size_of "$3")" = 64 ] || die "the signature of the $4 has a wrong length"
  openssl pkeyutl -verify -pubin -inkey "$1" -rawin -in "$2" -sigfile "$3" >/dev/null 2>&1 ||
    die "the signature of the $4 does not hold"
}

# utc SECONDS: since 1970, as RFC 3339
utc() {
  awk -v t="$1" 'BEGIN {
    d = int(t / 86400); s = t - d * 86400
    z = d + 719468; era = int(z / 146097); doe = z - era * 146097
    yoe = int((doe - int(doe / 1460) + int(doe / 36524) - int(doe / 146096)) / 365)
    doy = doe - (365 * yoe + int(yoe / 4) - int(yoe / 100)); mp = int((5 * doy + 2) / 153)
    m = mp < 10 ? mp + 3 : mp - 9
    printf "%04d-%02d-%02dT%02d:%02d:%02dZ\n", yoe + era * 400 + (m <= 2), m, doy - int((153 * mp + 2) / 5) + 1,
      int(s / 3600), int(s / 60) % 60, s % 60
  }'
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

SECOND='[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]'

# A title: UTF-8, 1 to 200 characters that are not all blanks, no control, nothing that turns text around.
TITLE='
  function no() { wrong = 1 }
  { for (f = 1; f <= NF; f++) {
      b = $f + 0
      if (due) { if (b < low || b > high) no(); u = u * 64 + b % 64; due--; low = 128; high = 191 }
      else if (b < 128) u = b
      else if (b >= 194 && b < 224) { u = b - 192; due = 1; low = 128; high = 191 }
      else if (b >= 224 && b < 240) { u = b - 224; due = 2; low = b == 224 ? 160 : 128; high = b == 237 ? 159 : 191 }
      else if (b >= 240 && b < 245) { u = b - 240; due = 3; low = b == 240 ? 144 : 128; high = b == 244 ? 143 : 191 }
      else no()
      if (due) continue
      count++
      if (u != 32) ink = 1
      if (u < 32 || (u >= 127 && u < 160) || u == 1564 || u == 8206 || u == 8207 ||
          (u >= 8232 && u <= 8238) || (u >= 8294 && u <= 8297)) no()
  } }
  END { exit wrong || due || !ink || count > 200 }
'

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

# name_witness FILE NAME TIME: by its name only when its key is among the given fingerprints
name_witness() {
  finger=$(grep -F -e "  $1" "$work/fingers" | cut -c1-64)
  case " $trusted " in
    *" $finger "*)
      say "checkpoint: cosigned by $2 at $3"
      called=${2#urn:zaibei:witness:}
      known=$((known + 1))
      ;;
    *)
      say "note: cosigned by an unknown key: $finger"
      called=$finger
      ;;
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
    # In canonical JSON two values are the same when their text is.
    if (split(path, levels, SEP) <= 3) RAW[path] = substr(s, from, at - from)
  }
  function number(name) { return (P name) in V && V[P name] ~ /^-?[0-9]/ }
  function amount(name) { return V[P name] + 0 }
  function some(name) { return number(name) && amount(name) != 0 }
  function unfit(    i, j, name, needed, got, goal, lost, held, listed, told) {
    goal = "objective" SEP "rpo_s"
    lost = "objects" SEP "lost"
    if (!number(goal) || amount(goal) < 0 || !number("acked") || amount("acked") <= 0) return 1
    if (!number("lost") || !number(lost) || amount("lost") < 0 || amount(lost) < 0) return 1
    if (some("lost") || some(lost)) {
      if (amount(goal) == 0 || !number("rpo_s") || amount("rpo_s") <= 0 || amount("rpo_s") > amount(goal)) return 1
      if (amount("lost") >= amount("acked")) return 1
    }
    if (!number("phantoms") || !number("resurrected") || !number("epoch_overlap")) return 1
    if (some("phantoms") || some("resurrected") || some("epoch_overlap")) return 1
    goal = "objective" SEP "rto_s"
    if (!number(goal) || amount(goal) <= 0) return 1
    if (!number("rto_first_s") || !number("rto_stable_s")) return 1
    if (amount("rto_first_s") < 0 || amount("rto_stable_s") < 0) return 1
    if (amount("rto_first_s") > amount(goal) || amount("rto_stable_s") > amount(goal)) return 1
    if (V[P "negative_control" SEP "condemned"] != "true") return 1
    for (i = 0; i < N[P "checks"]; i++) {
      j = P "checks" SEP i SEP
      if (V[j "ran"] != "true" || V[j "passed"] != "true" || V[j "name"] !~ /^"/) return 1
      held[V[j "name"]] = 1
    }
    if (T[P "checks"] != "[" || T[P "required"] != "[") return 1
    for (i = 0; i < N[P "required"]; i++) {
      name = V[P "required" SEP i]
      if (name !~ /^"/) return 1
      listed[name] = 1
      if (!(name in held)) return 1
    }
    needed = "ledger-whole takeover backup-committed restore-verified replicas-agree objects-converged" \
      " failback nothing-left negative-control"
    if (T[P "surge"] != "" || ((P "surge") in V && V[P "surge"] != "null")) needed = needed " surge-generator surge-expectation"
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
    split("hazard objective required run_by scenario seed stack started_at", bound, " ")
    for (i = 1; i in bound; i++) if ((P bound[i]) in RAW) print "bound\t" bound[i] "\t" RAW[P bound[i]]
    digest = V[P "stack" SEP "digest"]
    for (i = 0; i < N["subject"]; i++) {
      name = V["subject" SEP i SEP "name"]
      named = name == "\"stack.json\"" ? digest : name == "\"plan.json\"" ? V[P "plan_sha256"] : "-"
      gsub(/"/, "", name)
      print "subject\t" name "\t" (named == "-" || named == V["subject" SEP i SEP "digest" SEP "sha256"])
    }
    if (verdict == "PASS" && unfit()) print "denied\t1"
    if (T[P "due"] != "[") print "due\t!"
    for (i = 0; i < N[P "due"]; i++) print "due\t" RAW[P "due" SEP i]
  }' "$1"
}

# list_witnesses: the declared witnesses that did not sign, by the newest list in the log, and those with another key
list_witnesses() {
  item='\{"fingerprint":"[0-9a-f]{64}","name":"[A-Za-z0-9_-]+"\}'
  form="\{\"_type\":\"https://in-toto\.io/Statement/v1\",\"predicate\":\{\"declared\":\[($item(,$item)*)?\],"
  form="$form\"recorded_at\":\"[^\"\\\\]*\"\},\"predicateType\":\"urn:zaibei:witnesses/v1\",\"subject\":\[\]\}"
  : >"$work/stated"
  while read -r i kind drill recorded_at; do
    [ "$kind" = witnesses ] || continue
    file=$work/payload/$(printf %07d "$i")
    echo "at $i" >>"$work/stated"
    if grep -q -x -E -e "$form" "$file"; then
      { tr -d '\n' <"$file" && echo; } | sed 's/^.*"declared":\[//; s/\].*$//; s/},{/}\
{/g' | sed -n "s/^.*\"fingerprint\":\"\([0-9a-f]*\)\",\"name\":\"\([A-Za-z0-9_-]*\)\".*\$/is \2 \1/p" >>"$work/stated"
    else
      echo odd >>"$work/stated"
    fi
  done <"$work/table"
  : >"$work/signed"
  while read -r file; do
    grep -F -e "  $file" "$work/fingers" | cut -c1-64 >>"$work/signed"
  done <"$work/watching"
  awk '
  FILENAME == ARGV[1] { signed[$1] = 1; next }
  $1 == "at" { at = $2; n = odd = 0 }
  $1 == "odd" { odd = 1 }
  $1 == "is" {
    name[++n] = $2
    key[n] = $3
    if (($2 in last) && last[$2] != $3) changed[$2] = at
    last[$2] = $3
  }
  END {
    if (odd) print "note: witnesses " at ": not in a form that can be compared; read it"
    for (i = 1; i <= n; i++) if (!(key[i] in signed)) print "note: witness " name[i] ", declared in entry " at ", did not sign the checkpoint"
    for (i = 1; i <= n; i++) if (name[i] in changed) print "note: witness " name[i] " has another key since entry " changed[name[i]]
  }' "$work/signed" "$work/stated" || die "the list of witnesses could not be made"
}

# list_drills: every drill of the log with its verdict, every schedule with what answered it
list_drills() {
  : >"$work/facts"
  while read -r i kind drill recorded_at; do
    case $kind in
      schedule | intent | drill | aborted) ;;
      *) continue ;;
    esac
    chosen=0
    if grep -q -x -e "$i" "$work/taken"; then chosen=1; fi
    facts_of "$work/payload/$(printf %07d "$i")" >"$work/some" || die "the statement of entry $i cannot be read"
    printf 'entry\t%s\t%s\t%s\t%s\n' "$i" "$kind" "$drill" "$chosen" >>"$work/facts"
    cat "$work/some" >>"$work/facts"
  done <"$work/table"
  awk -F '\t' -v packed="$packed_at" '
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
    if (item !~ /^[{]"by":"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9](T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]Z)?"(,"drill":"[A-Za-z0-9][A-Za-z0-9_-]*")?(,"every_s":[0-9]+)?(,"owner":"[^"\\]*")?(,"scenario":"[A-Za-z0-9][A-Za-z0-9_-]*")?[}]$/) return 0
    if ((item ~ /,"drill":"/) + (item ~ /,"scenario":"[^"]*"}$/) != 1) return 0
    return length(name_of(item)) <= 80
  }
  function name_of(item) { return item ~ /,"drill":"/ ? field(item, "drill") : field(item, "scenario") }
  function answer(at, item,    by, name, n, j, late) {
    by = field(item, "by")
    name = name_of(item)
    n = length(by) == 10 ? 10 : 19
    for (j = at + 1; j <= count; j++) {
      if (kind[j] != "drill" || refuted[j] || (verdict[j] != "PASS" && verdict[j] != "FAIL")) continue
      if (scenario[j] != "\"" name "\"" && drill[j] != name) continue
      if (stamp[j] == "") continue
      late = substr(stamp[j], 1, n) > substr(by, 1, n)
      return name " by " by ": " (late ? "overdue, run late, " : "met, ") drill[j] " " verdict[j]
    }
    return name " by " by ": " (substr(now, 1, n) > substr(by, 1, n) ? "overdue" : "due")
  }
  # announced: nothing that was fixed before the fault is another thing in the outcome
  function announced_otherwise(before, after,    i) {
    for (i in bound) {
      split(i, key, SUBSEP)
      if (key[1] == before && bound[i] != bound[after, key[2]]) return 1
    }
    return unfit[before]
  }
  function lacks(j, name) { if (!((j, name) in held)) print "note: " drill[j] ": not in this pack: " name }
  BEGIN { now = packed }
  $1 == "entry" { count++; entry[count] = $2; kind[count] = $3; drill[count] = $4; chosen[count] = $5 }
  $1 == "verdict" { verdict[count] = $2 }
  $1 == "scenario" { scenario[count] = $2 }
  $1 == "bound" { bound[count, $2] = $3 }
  $1 == "subject" { held[count, $2] = 1; if (kind[count] == "intent" && !$3) unfit[count] = 1 }
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
      if (word == "PASS" && (denied[j] || announced_otherwise(intent, j))) {
        word = "INVALID, recorded as PASS"
        refuted[j] = 1
      }
      print "drill " drill[j] ": " word (chosen[j] ? "" : " (not chosen)")
      if (kind[j] == "drill" && chosen[j]) {
        lacks(intent, "stack.json")
        lacks(intent, "plan.json")
        if (!((j, "ledger.jsonl.gz") in held)) lacks(j, "ledger.jsonl")
        if (!((j, "readback.jsonl.gz") in held)) lacks(j, "readback.jsonl")
      }
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

# One statement a line of `od -An -v -tu1` bytes, each ended by 10. Each must be canonical JSON (RFC 8785: sorted
# keys, none twice, one spelling of each text and number) and a statement of a known kind. To $work/table:
# index, kind, drill or -, recorded_at or -. To $work/subjects: index, sha256, two blanks, name.
# shellcheck disable=SC2016
CANONICAL='
  function bad(why) {
    if (!wrong) wrong = why
    P = N + 1
  }
  function unit(u) { SORT = SORT sprintf("%04x", u) }
  # A string from its quote on: as it is spelt. SORT: its UTF-16 code units in hex, the order of keys.
  function text(   b, u, due, low, high, s) {
    s = SORT = ""
    for (P++; P <= N; P++) {
      b = B[P]
      if (b < 32) { bad("a control byte"); return "" }
      if (b == 34) { P++; return s }
      s = s CH[b]
      if (b == 92) {
        b = B[++P]
        s = s CH[b]
        if (b == 117) {
          u = CH[B[P + 1]] CH[B[P + 2]] CH[B[P + 3]] CH[B[P + 4]]
          if (!(u in ESCAPED)) { bad("a character that is escaped and need not be"); return "" }
          unit(ESCAPED[u]); s = s u; P += 4
        } else if (b in SHORT) unit(SHORT[b])
        else { bad("an escape that JSON does not have"); return "" }
      } else if (b < 128) unit(b)
      else {
        if (b >= 194 && b < 224) { u = b - 192; due = 1 }
        else if (b >= 224 && b < 240) { u = b - 224; due = 2 }
        else if (b >= 240 && b < 245) { u = b - 240; due = 3 }
        else { bad("bytes that are not UTF-8"); return "" }
        low = b == 224 ? 160 : b == 240 ? 144 : 128
        high = b == 237 ? 159 : b == 244 ? 143 : 191
        for (; due; due--) {
          b = B[++P]
          if (P > N || b < low || b > high) { bad("bytes that are not UTF-8"); return "" }
          s = s CH[b]; u = u * 64 + b % 64; low = 128; high = 191
        }
        if (u < 65536) unit(u)
        else { unit(55296 + int((u - 65536) / 1024)); unit(56320 + (u - 65536) % 1024) }
      }
    }
    bad("a string without its end")
    return ""
  }
  function step(key) { gsub(/~/, "~0", key); gsub(/\//, "~1", key); return key }
  function object(path, depth,   key, sort, last) {
    P++
    if (B[P] == 125) { P++; return }
    for (last = ""; P <= N; P++) {
      if (B[P] != 34) { bad("a key that is no string"); return }
      key = text(); sort = "k" SORT
      if (wrong) return
      if (last != "" && sort == last) { bad("a key that stands twice in one object"); return }
      if (last != "" && sort < last) { bad("keys that are not sorted"); return }
      last = sort
      if (key ~ /(^|")drill_id$/) drills++ # also at the end of a longer key: text that a search would find
      if (B[P] != 58) { bad("a key without its colon"); return }
      P++
      value(path "/" step(key), depth)
      if (wrong) return
      if (B[P] == 125) { P++; return }
      if (B[P] != 44) { bad("an object without its end"); return }
    }
    bad("an object without its end")
  }
  function array(path, depth,   n) {
    P++
    if (B[P] == 93) { P++; LEN[path] = 0; return }
    for (n = 0; P <= N; P++) {
      value(path "/" n, depth)
      if (wrong) return
      LEN[path] = ++n
      if (B[P] == 93) { P++; return }
      if (B[P] != 44) { bad("an array without its end"); return }
    }
    bad("an array without its end")
  }
  # One more or one less in the last place; the same when that would carry into another length.
  function beside(d, up,   n, c) {
    for (n = length(d); n; n--) {
      c = substr(d, n, 1) + (up ? 1 : -1)
      if (c >= 0 && c <= 9) return substr(d, 1, n - 1) c substr(up ? "00000000000000000" : "99999999999999999", 1, length(d) - n)
    }
    return d
  }
  # The digits of x, as few as tell it from every other double; TEN: the power of ten of the first.
  # Below a power of two the doubles lie closer: the nearest of n digits may be another one where its neighbour is x.
  function digits(x,   n, t, d, up) {
    for (n = 0; n < 17; n++) {
      t = sprintf("%." n "e", x)
      TEN = substr(t, index(t, "e") + 1) + 0
      d = substr(t, 1, 1) substr(t, 3, n)
      if (t + 0 == x) break
      for (up = 0; up < 2; up++) {
        t = beside(d, up)
        if ((substr(t, 1, 1) "." substr(t, 2) "e" TEN) + 0 == x) { d = t; n = 17; break }
      }
    }
    sub(/0+$/, "", d)
    return d
  }
  function zeros(n,   s) { for (s = ""; n > 0; n--) s = s "0"; return s }
  function spelt(x,   d, n, k) {
    d = digits(x); n = length(d); k = TEN + 1
    if (n <= k && k <= 21) return d zeros(k - n)
    if (0 < k && k <= 21) return substr(d, 1, k) "." substr(d, k + 1)
    if (-6 < k && k <= 0) return "0." zeros(-k) d
    return substr(d, 1, 1) (n > 1 ? "." substr(d, 2) : "") "e" (k > 0 ? "+" : "-") (k > 0 ? k - 1 : 1 - k)
  }
  function number(   s, plain, x) {
    for (s = ""; P <= N && index("+-.0123456789eE", CH[B[P]]); P++) s = s CH[B[P]]
    plain = s
    sub(/^-/, "", plain)
    if (plain ~ /^(0|[1-9][0-9]*)$/) {
      if (s == "-0") bad("a zero with a sign")
      if (length(plain) > 16 || (length(plain) == 16 && ("x" plain) > "x9007199254740991")) bad("an integer over 2^53")
      return s
    }
    if (plain !~ /^(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-][1-9][0-9]*)?$/ || length(plain) > 30) { bad("a number that is not in its one form"); return "" }
    x = plain + 0
    if (x == 0 || x > 1.7976931348623157e308 || spelt(x) != plain) bad("a number that is not in its one form")
    return s
  }
  function word(w,   n) {
    for (n = 1; n <= length(w); n++) if (CH[B[P + n - 1]] != substr(w, n, 1)) { bad("what is no value of JSON"); return "" }
    P += length(w)
    return w
  }
  function value(path, depth,   b) {
    if (P > N) { bad("a value that is not there"); return }
    b = B[P]
    if ((b == 123 || b == 91) && depth >= 64) { bad("nested deeper than 64"); return }
    if (b == 123) { TYPE[path] = "object"; object(path, depth + 1) }
    else if (b == 91) { TYPE[path] = "array"; array(path, depth + 1) }
    else if (b == 34) { TYPE[path] = "string"; IS[path] = text() }
    else if (b == 45 || (b >= 48 && b <= 57)) { TYPE[path] = "number"; IS[path] = number() }
    else { TYPE[path] = "word"; IS[path] = word(b == 116 ? "true" : b == 102 ? "false" : "null") }
  }
  function statement(   path, n, kind, drill, at, names) {
    if (TYPE[""] != "object" || COUNT[""] != 4 || IS["/_type"] != "https://in-toto.io/Statement/v1" || TYPE["/_type"] != "string" ||
        TYPE["/predicate"] != "object" || TYPE["/predicateType"] != "string" || TYPE["/subject"] != "array") { bad("not an in-toto statement"); return }
    kind = IS["/predicateType"]
    if (!(kind in KIND)) { bad("of no known kind: " kind); return }
    kind = KIND[kind]
    split("", names)
    for (n = 0; n < LEN["/subject"]; n++) {
      path = "/subject/" n
      if (!subject(path, COUNT[path]) || (IS[path "/name"] in names)) { bad("a subject is malformed"); return }
      names[IS[path "/name"]] = 1
      print I, IS[path "/digest/sha256"] "  " IS[path "/name"] >SUBJECTS
    }
    drill = "-"
    if ("/predicate/drill_id" in TYPE) {
      drill = IS["/predicate/drill_id"]
      if (TYPE["/predicate/drill_id"] != "string" || drill !~ /^[A-Za-z0-9][A-Za-z0-9_-]*$/ || length(drill) > 80) { bad("a drill_id is malformed"); return }
    } else if (kind ~ /^(intent|drill|aborted|switch-back)$/) { bad("it names no drill"); return }
    if (drills != (drill != "-")) { bad("drill_id stands more than once in the predicate"); return }
    at = "-"
    if ("/predicate/recorded_at" in TYPE) {
      at = IS["/predicate/recorded_at"]
      if (TYPE["/predicate/recorded_at"] != "string" || length(at) != 24 || at !~ STAMP) { bad("recorded_at is no time"); return }
    }
    print I, kind, drill, at >TABLE
  }
  function subject(path, fields) {
    return TYPE[path] == "object" && fields == 2 && TYPE[path "/name"] == "string" && TYPE[path "/digest"] == "object" &&
      COUNT[path "/digest"] == 1 && TYPE[path "/digest/sha256"] == "string" && length(IS[path "/digest/sha256"]) == 64 &&
      IS[path "/digest/sha256"] ~ /^[0-9a-f]+$/ && IS[path "/name"] ~ /^[A-Za-z0-9_][A-Za-z0-9._-]*(\/[A-Za-z0-9_][A-Za-z0-9._-]*)*$/
  }
  function record(   path, up) {
    split("", TYPE); split("", IS); split("", LEN); split("", COUNT)
    P = 1; wrong = ""; drills = 0
    value("", 0)
    if (!wrong && P != N + 1) bad("something after the end")
    for (path in TYPE) { up = path; sub(/\/[^\/]*$/, "", up); if (path != "") COUNT[up]++ }
    if (!wrong) statement()
    if (wrong) { print "entry " I " is not a statement in its one form: " wrong; failed = 1; exit }
    I++
    N = 0
  }
  BEGIN {
    I = 0; N = 0
    for (n = 1; n < 256; n++) CH[n] = sprintf("%c", n)
    CH[0] = "NUL"
    SHORT[34] = 34; SHORT[92] = 92; SHORT[98] = 8; SHORT[102] = 12; SHORT[110] = 10; SHORT[114] = 13; SHORT[116] = 9
    for (n = 0; n < 32; n++) if (n != 8 && n != 9 && n != 10 && n != 12 && n != 13) ESCAPED[sprintf("%04x", n)] = n
    n = split(KINDS, kinds, " ")
    for (; n; n--) KIND["urn:zaibei:" kinds[n] "/v1"] = kinds[n]
    STAMP = "^[0-9][0-9][0-9][0-9]-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\\.[0-9][0-9][0-9]Z$"
  }
  { for (f = 1; f <= NF; f++) if ($f == 10) record(); else B[++N] = $f + 0 }
  END { exit failed }
'

canonical() {
  : >"$work/table"
  : >"$work/subjects"
  od -An -v -tu1 | awk -v KINDS="$KINDS" -v TABLE="$work/table" -v SUBJECTS="$work/subjects" "$CANONICAL" >"$work/why" ||
    die "$(cat "$work/why")"
}


# --- 1. the manifest and every file ------------------------------------------------------------------

have MANIFEST
have keys/ed25519.pub
have keys/p256.pub
have keys/FINGERPRINTS.txt
have log/checkpoint
mkdir "$work/key"
key_file ed25519.pub
edkey=$work/key/ed25519.pub
raw_ed25519 ed25519.pub "$work/ed.raw"

split_note "$pack/MANIFEST" manifest
[ "$(wc -l <"$work/lines")" -eq 1 ] || die "the manifest does not have exactly one signature"
[ "$(sed -n 1p "$work/text")" = urn:zaibei:pack/v1 ] || die "not a pack of a known form"
title=$(sed -n 2p "$work/text")
logline=$(sed -n 3p "$work/text")
sed -n 2p "$work/text" | tr -d '\n' | od -An -v -tu1 | awk "$TITLE" || die "the title of the manifest is malformed"
sed -n 4p "$work/text" | grep -q -E -x "packed ${SECOND}Z" || die "the manifest does not say when it was packed, in UTC"
packed_at=$(sed -n 4p "$work/text" | cut -c8-)
origin=$(printf '%s\n' "$logline" | cut -d' ' -f2)
printf '%s' "$origin" | grep -q -x '[a-zA-Z0-9:./_-][a-zA-Z0-9:./_-]*' || die "the manifest is malformed"
signature_of 1 "$origin" "$(key_id "$origin" 01 "$work/ed.raw")" manifest
check_ed25519 "$edkey" "$work/text" "$work/sig" manifest

tail -n +5 "$work/text" >"$work/sums"
if grep -q -v -x '[0-9a-f]\{64\}  [A-Za-z0-9._/-][A-Za-z0-9._/-]*' "$work/sums"; then
  die "the manifest is malformed"
fi
cut -c67- "$work/sums" >"$work/listed"
if grep -q -e '^/' -e '//' -e '/$' -e '^\.\.*/' -e '/\.\.*/' -e '/\.\.*$' "$work/listed"; then
  die "the manifest names a path outside the pack"
fi
LC_ALL=C sort -c "$work/listed" 2>/dev/null || die "the manifest is not sorted"
{ cat "$work/listed"; echo MANIFEST; } | sort >"$work/due"
[ -z "$(uniq -d "$work/due")" ] || die "the manifest names a file twice"
odd=$(cd "$pack" && find . ! -type f ! -type d)
[ -z "$odd" ] || die "neither a file nor a folder: $odd"
odd=$(cd "$pack" && find . -type d -empty)
[ -z "$odd" ] || die "an empty folder: $odd"
(cd "$pack" && find . -type f) | sed 's|^\./||' | sort >"$work/there"
if ! cmp -s "$work/due" "$work/there"; then
  sort "$work/due" "$work/due" "$work/there" | uniq -c | grep -v '^ *3 ' | eyes 1 >&2 || :
  die "files missing (2) or not in the manifest (1), see above"
fi
odd=$(cd "$pack" && find . -type f -size +$MAX_BLOCKS ! -path '*/artifacts/*')
[ -z "$odd" ] || die "larger than any such file can be: $odd"
(cd "$pack" && sha256sum -c --strict --quiet "$work/sums") >"$work/bad" 2>&1 ||
  die "changed since it was packed: $(head -n 1 "$work/bad")"
if grep -q -v -E '^((verify\.sh|VERIFY\.(en|zh)\.md)$|(keys|runs|log|proofs|schedule)/)' "$work/listed"; then
  die "a file that does not belong in a pack"
fi
say "manifest: every file is signed for, none is missing, none is extra"

# --- 2. the keys -------------------------------------------------------------------------------------

grep '^keys/' "$work/listed" | cut -c6- | grep -v -x 'FINGERPRINTS\.txt' | sort >"$work/keyfiles"
if grep -q -v -x -e 'p256\.pub' -e 'ed25519\.pub' -e 'sm2\.pub' -e 'witness-[A-Za-z0-9_-][A-Za-z0-9_-]*\.pub' "$work/keyfiles"; then
  die "a key that does not belong in a pack"
fi
: >"$work/fingers"
while read -r name; do
  key_file "$name"
  finger=$(sha "$work/key/$name.der")
  printf '%s  %s\n' "$finger" "$name" >>"$work/fingers"
  case $name in witness-*) continue ;; esac
  if [ -n "$trusted" ]; then
    case " $trusted " in
      *" $finger "*) ;;
      *) die "$name has another fingerprint than the ones given: $finger" ;;
    esac
  fi
done <"$work/keyfiles"
same "$work/fingers" "$pack/keys/FINGERPRINTS.txt" "FINGERPRINTS.txt does not list the fingerprints of the keys"
for finger in $trusted; do
  met=$(grep -c -e "^$finger  " "$work/fingers") || :
  [ "$met" -eq 1 ] || die "$met keys of the pack have the fingerprint $finger; each one given must be met by one key"
done
keyid=$(grep '  p256\.pub$' "$work/fingers" | cut -c1-64)
[ ${#keyid} -eq 64 ] || die "no statement key"

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
  kind=ff$(printf %s urn:zaibei:sm2-sm3/v1 | xxd -p | tr -d '\n')
  signature_of 2 "$origin" "$(key_id "$origin" "$kind" "$work/key/sm2.pub.der")" checkpoint
  openssl pkeyutl -verify -pubin -inkey "$work/key/sm2.pub" -in "$work/text" -rawin -digest sm3 \
    -pkeyopt distid:1234567812345678 -sigfile "$work/sig" >/dev/null 2>&1 ||
    die "the SM2 signature does not hold, or this openssl cannot check it"
  at=3
  say "checkpoint: Ed25519 and SM2 signatures hold"
else
  say "checkpoint: the Ed25519 signature holds"
  say "note: the checkpoint has no SM2 line"
fi
total=$(wc -l <"$work/lines")
: >"$work/watched"
known=0
: >"$work/cosigned_at"
while [ "$at" -le "$total" ]; do
  name=$(sed -n "${at}p" "$work/lines" | cut -d' ' -f2)
  file=witness-${name#urn:zaibei:witness:}.pub
  [ "urn:zaibei:witness:${name#urn:zaibei:witness:}" = "$name" ] || die "a line of the checkpoint has no key in the pack"
  grep -q -F -x -e "$file" "$work/keyfiles" || die "a line of the checkpoint has no key in the pack"
  raw_ed25519 "$file" "$work/w.raw"
  signature_of "$at" "$name" "$(key_id "$name" 04 "$work/w.raw")" checkpoint
  head -c 8 "$work/sig" | xxd -p >"$work/stamp"
  tail -c +9 "$work/sig" >"$work/wsig"
  case $(cat "$work/stamp") in 000000*) ;; *) die "the time of $name is none" ;; esac
  stamp=$((0x$(cut -c7-16 <"$work/stamp")))
  [ "$stamp" -le 253402300799 ] || die "the time of $name is none"
  { printf 'cosignature/v1\ntime %d\n' "$stamp"; cat "$work/text"; } >"$work/cosigned"
  check_ed25519 "$work/key/$file" "$work/cosigned" "$work/wsig" "checkpoint by $name"
  at_time=$(utc "$stamp")
  name_witness "$file" "$name" "$at_time"
  printf '%s %s\n' "$called" "$at_time" >>"$work/cosigned_at"
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
: >"$work/logged"
i=0
while [ "$i" -lt "$size" ]; do
  name=$(printf %07d "$i")
  e=$work/entry/$name
  p=$work/payload/$name
  plain_text "$e" "envelope of entry $i"
  [ "$(wc -l <"$e")" -eq 0 ] || die "entry $i is not one line"
  grep -q -x "$envelope" "$e" || die "entry $i is not an envelope in its one form"
  sed 's/^{"payload":"\([^"]*\)".*$/\1/' "$e" >"$work/p64"
  unbase64 "$work/p64" "$p" "the statement of entry $i"
  sed 's/^.*"sig":"\([^"]*\)"}\]}$/\1/' "$e" >"$work/s64"
  unbase64 "$work/s64" "$work/s.der" "the signature of entry $i"
  [ "$(sed 's/^.*{"keyid":"\([0-9a-f]*\)","sig":"[^"]*"}\]}$/\1/' "$e")" = "$keyid" ] ||
    die "entry $i is signed by another key"
  { printf 'DSSEv1 %d %s %d ' ${#T} "$T" "$(size_of "$p")"; cat "$p"; } >"$work/pae"
  openssl dgst -sha256 -verify "$work/key/p256.pub" -signature "$work/s.der" "$work/pae" >/dev/null 2>&1 ||
    die "the signature of entry $i does not hold"
  [ "$(wc -l <"$p")" -eq 0 ] || die "the statement of entry $i is not one line"
  { cat "$p"; echo; } >>"$work/logged"
  i=$((i + 1))
done
say "statements: every signature holds"
canonical <"$work/logged"
[ "$(wc -l <"$work/table")" -eq "$size" ] || die "a statement was not read"
say "statements: each is canonical JSON of a known kind"

# --- 6. the order: no outcome without its intent, one of each ----------------------------------------

awk '
  function no(why) { print why; failed = 1; exit }
  { i = $1; kind = $2; drill = $3 }
  kind == "intent" {
    if (drill in begun) no("a second intent for " drill)
    begun[drill] = 1; order[++count] = drill
  }
  kind == "drill" || kind == "aborted" || kind == "switch-back" {
    if (!(drill in begun)) no("entry " i ": " kind " of " drill " without its intent")
    if (kind != "switch-back" && (drill in ended)) no("a second end for " drill)
    if (kind != "switch-back") ended[drill] = 1
  }
  END {
    if (failed) exit 1
    for (n = 1; n <= count; n++)
      if (!(order[n] in ended)) print "note: " order[n] " was announced and has no end in this log"
  }
' "$work/table" >"$work/order" || die "$(cat "$work/order")"
cat "$work/order"
say "order: every outcome has its intent before it"

# --- 7. the chosen entries: their files, artefacts and proofs ----------------------------------------

grep '^runs/' "$work/listed" | cut -d/ -f2 | sort -u >"$work/runs"
[ -s "$work/runs" ] || die "the pack holds no entry"
: >"$work/proofdue"
: >"$work/taken"
while read -r run; do
  printf '%s' "$run" | grep -q -x '[0-9]\{6,7\}-[a-z-][a-z-]*' || die "runs/$run is not an entry of the log"
  i=$(printf '%s' "${run%%-*}" | sed 's/^0*//')
  i=${i:-0}
  [ "$i" -lt "$size" ] || die "runs/$run is not an entry of the log"
  name=$(printf %07d "$i")
  kind=$(sed -n "$((i + 1))p" "$work/table" | cut -d' ' -f2)
  [ "$run" = "$(printf %06d "$i")-$kind" ] || die "runs/$run is not an entry of the log"
  have "runs/$run/statement.json"
  have "runs/$run/statement.dsse.json"
  same "$work/payload/$name" "$pack/runs/$run/statement.json" "runs/$run/statement.json is not what was logged"
  same "$work/entry/$name" "$pack/runs/$run/statement.dsse.json" "runs/$run/statement.dsse.json is not what was logged"
  grep -e "^$i " "$work/subjects" | cut -d' ' -f2- | sed "s|  |  runs/$run/artifacts/|" | sort >"$work/want" || :
  grep -F -e "  runs/$run/" "$work/sums" | grep -v -x -e "[0-9a-f]*  runs/$run/statement\.json" \
    -e "[0-9a-f]*  runs/$run/statement\.dsse\.json" | sort >"$work/got" || :
  same "$work/want" "$work/got" "the artefacts of runs/$run are not those of its statement"

  have "proofs/$run.txt"
  echo "proofs/$run.txt" >>"$work/proofdue"
  proof=$pack/proofs/$run.txt
  plain_text "$proof" "proof of $run"
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
  grep -e " $drill [^ ]*\$" "$work/table" | cut -d' ' -f1 >"$work/together"
  while read -r other; do
    grep -q -x -e "$other" "$work/taken" || die "entry $other belongs to $drill and was left out"
  done <"$work/together"
done <"$work/taken"

: >"$work/due"
grep -e '^[0-9]* schedule ' "$work/table" | cut -d' ' -f1 >"$work/schedules" || :
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
list_witnesses

# --- the end -----------------------------------------------------------------------------------------

# Clocks differ, so a time that cannot be right as it stands is a question and not a refusal.
newest=$(cut -d' ' -f4 "$work/table" | grep -v -x -e - | sort | tail -n 1 | cut -c1-19) || :
packed=$(printf %s "$packed_at" | cut -c1-19)
# earlier A B: whether the time A is before B, both to the second
earlier() { [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort | head -n 1)" = "$1" ]; }
if [ -n "$newest" ] && earlier "$packed" "$newest"; then
  say "note: packed at $packed_at, before its newest entry of ${newest}Z"
fi
sort "$work/cosigned_at" >"$work/again"
while read -r name at_time; do
  at_second=${at_time%Z}
  if [ -n "$newest" ] && earlier "$at_second" "$newest"; then
    say "note: $name cosigned at $at_time, before the newest entry of ${newest}Z"
  fi
  if earlier "$packed" "$at_second"; then
    say "note: $name cosigned at $at_time, after it was packed at $packed_at"
  fi
done <"$work/again"

say ""
say "pack:  $(printf %s "$title" | eyes)"
say "log:   $origin, $size entries, root $root"
say "time:  packed at $packed_at; newest entry ${newest:-unknown}${newest:+Z}"
say "checkpoint $size:$root"
if [ -n "$trusted" ]; then
  say "keys:  they are the ones whose fingerprints were given"
else
  say "keys:  NOT COMPARED. Compare these with the signed report or with whoever runs the system:"
  sed 's/^/       /' "$work/fingers"
fi
verified=yes
say "VERIFIED"
