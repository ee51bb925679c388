#!/bin/bash
# The first process of a lab's PID namespace: starts the daemons, and reaps what they leave. See lab.py, which sets LAB and
# NODES and has written all configuration.
set -euo pipefail

wait_for() { # a condition, for at most 20 s
    for _ in $(seq 200); do
        "$@" && return
        sleep 0.1
    done
    echo "waited in vain: $*"
}
answers() { (echo >"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

mount --bind "$LAB/etc/hosts" /etc/hosts # in this mount namespace alone
munged --force --foreground --key-file="$LAB/etc/munge.key" --socket="$LAB/run/munge.sock" --num-threads=4 \
    --pid-file="$LAB/run/munged.pid" --log-file="$LAB/log/munged.log" --seed-file="$LAB/run/munged.seed" &
wait_for test -S "$LAB/run/munge.sock"

if [[ -e $LAB/etc/slurmdbd.conf ]]; then
    mariadb-install-db --no-defaults --datadir="$LAB/db" --user=root --auth-root-authentication-method=normal \
        --skip-test-db >"$LAB/log/mariadb-install.log"
    mariadbd --no-defaults --datadir="$LAB/db" --socket="$LAB/run/mysql.sock" --pid-file="$LAB/run/mysql.pid" \
        --skip-networking --skip-grant-tables --user=root --innodb-buffer-pool-size=64M \
        --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 >"$LAB/log/mariadbd.log" 2>&1 &
    wait_for test -S "$LAB/run/mysql.sock"
    MYSQL_UNIX_PORT=$LAB/run/mysql.sock slurmdbd -D &
    wait_for answers "$(sed -n 's/^DbdPort=//p' "$LAB/etc/slurmdbd.conf")"
fi

slurmctld -D -f "$SLURM_CONF" &
for number in $(seq "$NODES"); do
    unshare --uts bash -c "hostname node$number; exec slurmd -D -N node$number -f $SLURM_CONF" &
done
while :; do
    wait -n || true
    sleep 0.2
done
