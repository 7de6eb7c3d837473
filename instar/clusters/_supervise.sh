# --- around it: the same for every command and every site ------------------------------------------------------------
# The command ends with 0 (done), 75 (saved: the same command carries on), 65 (a mistake to mend) or crashes.
# This shell stands outside any container, so it can ask the scheduler; it decides once, at the end, what follows.
by_hand=1                                       # whoever submitted us may still be writing our number down
for _ in 1 2 3 4 5; do
    if grep -qxF -- "${job%"${element:+_$element}"}" "$folder/ids" 2>/dev/null; then by_hand= && break; fi
    sleep 0.2
done
own=${element:+-$element}${by_hand:+-by-hand}   # an element of an array keeps its own records
over=$folder/over$own carried=$folder/carried$own fruitless=$folder/fruitless$own
is_over() {  # by itself, or with the whole array
    [ -e "$over" ] || { [ -z "$by_hand" ] && [ -e "$folder/over" ]; }
}
export INSTAR_EXIT="$folder/exit$own"           # ranks leave their last word in $INSTAR_EXIT.RANK
export INSTAR_JOB=$job INSTAR_ATTEMPT=$attempt
if [ "$longest" -gt 0 ]; then export INSTAR_JOB_END=$(($(date +%s) + longest - SECONDS)); fi

moment() {  # seconds since 1970, with thousandths where `date` knows them
    local now
    now=$(date +%s.%3N)
    case $now in *N) echo "${now%.*}" ;; *) echo "$now" ;; esac
}

note() {  # note EVENT MORE: one line for `instar why` and the page of the run; MORE is JSON that begins with a comma
    printf '{"time": %s, "event": "%s", "host": "%s", "job": "%s", "attempt": %d%s}\n' \
        "$(moment)" "$1" "${HOSTNAME:-}" "$job" "$attempt" "${2:-}" >>"$events"
}

position() {  # samples in the newest checkpoint
    local newest=
    if [ -n "$progress" ]; then { read -r newest <"$progress"; } 2>/dev/null; fi
    newest=${newest##*-}
    case $newest in '' | *[!0-9]*) newest=0 ;; esac
    echo $((10#$newest))
}

counted() {  # one more in a file of its own, and how many it are
    local count=0
    { read -r count <"$1"; } 2>/dev/null
    echo $((count + 1)) >"$1"
    echo $((count + 1))
}

finish() {  # finish STATE CODE REASON: nothing follows
    echo "$1" >"$over"
    note job_ended ", \"state\": \"$1\", \"exit\": $2, \"reason\": \"$3\""
    echo "instar: job $job $1: $3"
    exit "$2"
}

early=$told told='' child='' late='' timers=()
after() {  # after SECONDS SIGNAL: tell this shell; `read` waits without a child that could outlive us
    (read -rt "$1" <> <(:); kill -s "$2" $$) </dev/null >/dev/null 2>&1 &
    timers+=($!)
}
trap 'kill "${timers[@]}" 2>/dev/null' EXIT
hear() {  # a signal: remember it, and let the command save and stop
    if [ -z "$told" ] && [ "$1" = USR1 ]; then
        # Should the save take longer than the warning leaves time for, be queued again before the limit ends us.
        after $((lead > 30 ? lead - 15 : lead / 2)) ALRM
    fi
    [ "$told" = USR1 ] || told=$1               # TERM after USR1 is the limit itself
    if [ -n "$child" ]; then
        # Always by USR1: for a TERM, srun and mpirun kill all ranks on the spot, and nothing is saved.
        kill -s USR1 "$child" 2>/dev/null
        after 2 USR2                            # once more: what comes between its fork and its exec is lost
    fi
}
trap 'hear USR1' USR1
trap 'hear TERM' TERM
trap 'hear INT' INT
trap 'kill -s USR1 "$child" 2>/dev/null' USR2
trap 'late=1' ALRM
[ -z "$early" ] || hear "$early"
if [ -n "${unwarned:-}" ] && [ "$longest" -gt $((lead + SECONDS)) ]; then after $((longest - lead - SECONDS)) USR1; fi
look_for_marker() {  # where no signal can be sent: whoever wants this job to stop leaves a marker
    exec 9<> <(:)
    until is_over; do read -rt 2 -u 9; done
    kill -s TERM $$
}

if is_over; then
    if [ -z "$by_hand" ] && [ "$attempt" = 0 ]; then
        echo "instar: job $job has nothing left to do: $(cat "$over" 2>/dev/null || cat "$folder/over")"
        exit 0
    fi
    rm -f "$over" "$carried" "$fruitless"       # started by hand once more, or queued again by the site
fi
rm -f "$INSTAR_EXIT".*
if [ -n "${unwarned:-}" ]; then look_for_marker </dev/null >/dev/null 2>&1 & timers+=($!); fi
begun=$(position)
note job_started
code=75
if [ -n "$told" ]; then late=1; else command_in_step & child=$!; fi  # told before there is anything to save
while [ -z "$late" ]; do
    wait "$child"                               # returns early for every signal
    code=$?
    kill -0 "$child" 2>/dev/null || break
done
if [ -z "$late" ]; then                         # the end itself, where a signal had interrupted the wait
    wait "$child" 2>/dev/null
    ended=$?
    [ "$ended" = 127 ] || code=$ended
fi

word='' why=''
for file in "$INSTAR_EXIT".*; do                # a rank that failed says more than those that stopped because of it
    [ -e "$file" ] || continue
    read -r said reason <"$file"
    case $word:$said in 75:0) ;; :* | 0:* | 75:[!7]* | 75:7[!5]*) word=$said why=$reason ;; esac
done
case $word in *[!0-9]*) word='' ;; esac
why=${why//[!A-Za-z0-9 ._:-]/ }                 # it goes into JSON
[ -z "$word" ] || code=$word
[ -z "$late" ] || [ -z "$child" ] || code=75 why='the save took longer than the warning'
case $told:$code in                             # whoever was told dies of it where nobody was listening yet
    *:0 | *:65) ;;
    ?*:*) code=75 ;;
esac

case $code in
    0) finish 'done' 0 'all is done' ;;
    75 | 137) ;;                                # 137: killed without a word, by the kernel or the site
    65) finish failed 65 'a mistake to mend: see the log' ;;
    *) finish failed "$code" "it crashed with code $code: see the log" ;;
esac
case $told in                                   # cancelled. A preemption tells the ranks only, and may carry on.
    TERM | INT) finish stopped 75 "it was told to stop by $told" ;;
esac
if [ "$(position)" -gt "$begun" ]; then rm -f "$fruitless"; elif [ "$(counted "$fruitless")" -ge 2 ]; then
    finish failed 1 'two jobs in a row saved nothing new'
fi
if [ "$(counted "$carried")" -ge "$links" ]; then finish stopped 75 'the time that was asked for is used up'; fi
note job_continues ", \"reason\": \"${why:-${told:-killed}}\""
echo "instar: job $job carries on: ${why:-${told:-killed}}"
carry_on || finish stopped 75 'the scheduler would not have it again: instar resume'
