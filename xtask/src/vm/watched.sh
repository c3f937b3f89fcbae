# Runs a program as long as somebody holds the lock of a file, its first argument, and no longer. So the
# program ends with the task that started it, however that ends: also behind sudo, across which no
# signal of a parent's death comes.
set -u
lock=$1
shift
# Nobody could end the program then.
if ! flock --shared --nonblock --conflict-exit-code 0 "$lock" true; then
    echo "cannot lock $lock" >&2
    exit 1
fi
# A program in the background has no terminal unless it is given one.
exec 3<&0
"$@" <&3 3<&- &
program=$!
flock --shared "$lock" kill -KILL "$program" 3<&- &
watcher=$!
exec 3<&-
wait "$program"
status=$?
kill "$watcher" 2>/dev/null
exit "$status"
