#!/usr/bin/env bash
# A real Slurm of two virtual nodes on this machine, to be thrown away: each node is a network, process, host name and
# mount namespace of its own, so ranks on two nodes really meet over a network. Needs Debian and root.
#
#   cluster.sh start              installs slurm-wlm and munge where they are missing; about a second once they are there
#   cluster.sh crash|boot N       node N loses its power | is switched on again
#   cluster.sh kill-slurmd|start-slurmd N    only its daemon dies | starts again; jobs on it go on
#   cluster.sh stop
#
# Everything lies in $INSTAR_SLURM (default /var/lib/instar-slurm); its env.sh is to be sourced before any Slurm command.
set -euo pipefail
D=${INSTAR_SLURM:-/var/lib/instar-slurm}
NODES=2 CORES=4 MEMORY=10000 SUBNET=10.213.77 BRIDGE=instarslurm PORT=17817
export SLURM_CONF=$D/slurm.conf

die() { echo "cluster: $*" >&2; exit 1; }
address() { echo "$SUBNET.$((10 + $1))"; }

install_packages() {
    local need=()
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null || need+=(slurm-wlm)
    command -v munged >/dev/null || need+=(munge)
    command -v ip >/dev/null || need+=(iproute2)
    command -v pgrep >/dev/null || need+=(procps)
    command -v ch-run >/dev/null || need+=(charliecloud-runtime) # containers; a few kilobytes
    [ ${#need[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "needs ${need[*]}, and there is no apt-get"
    # Keep the packages from starting daemons of their own.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=1; fi
    DEBIAN_FRONTEND=noninteractive apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
    [ -z "$made" ] || rm -f $policy
}

configure() {
    mkdir -p "$D"/{pids,log,state,spool}
    chmod 755 "$D"
    local gpu
    for gpu in 0 1; do [ -e "$D/gpu$gpu" ] || mknod -m 666 "$D/gpu$gpu" c 1 3 2>/dev/null || : >"$D/gpu$gpu"; done
    echo "NodeName=n[1-$NODES] Name=gpu Type=fake File=$D/gpu[0-1]" >"$D/gres.conf"
    # This slurmd wants some cgroup plug-in; v1 touches nothing unless processes or memory are tracked with it.
    echo "CgroupPlugin=cgroup/v1" >"$D/cgroup.conf"
    # A name server that refuses at once; without, torch waits ten seconds for every look-up.
    printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n' >"$D/resolv.conf"
    cat >"$D/slurm.conf" <<CONF
ClusterName=instar
SlurmctldHost=$(hostname -s)($SUBNET.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is queued again waits for cred_expire: two minutes by default, and where less than five seconds are said.
AuthInfo=socket=$D/munge/socket,cred_expire=5
SrunPortRange=60000-60499
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/pids/slurmctld
SlurmdPidFile=$D/spool/%n.pid
SlurmctldLogFile=$D/log/slurmctld
SlurmdLogFile=$D/log/slurmd-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
KillWait=10
MinJobAge=600
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=10
MaxArraySize=1001
PropagateResourceLimits=NONE
AccountingStorageType=accounting_storage/none
CONF
    local node
    for node in $(seq $NODES); do
        echo "NodeName=n$node NodeAddr=$(address "$node") Port=$((PORT + 10)) CPUs=$CORES RealMemory=$MEMORY" \
            "Gres=gpu:fake:2 State=UNKNOWN"
    done >>"$D/slurm.conf"
    cat >>"$D/slurm.conf" <<CONF
PartitionName=day Nodes=n[1-$NODES] Default=YES MaxTime=1-00:00:00 DefaultTime=10 State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=n[1-$NODES] MaxTime=2:00:00 DefaultTime=10 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
CONF
    echo "export SLURM_CONF=$D/slurm.conf INSTAR_SLURM=$D" >"$D/env.sh"
}

start_munge() {
    install -d -o munge -g munge -m 0755 "$D/munge"
    if [ ! -s "$D/munge/key" ]; then
        head -c 128 /dev/urandom >"$D/munge/key"
        chmod 400 "$D/munge/key"
        chown munge:munge "$D/munge/key"
    fi
    setpriv --reuid munge --regid munge --init-groups munged --force --key-file="$D/munge/key" \
        --socket="$D/munge/socket" --pid-file="$D/munge/pid" --log-file="$D/munge/log" --seed-file="$D/munge/seed"
    cp "$D/munge/pid" "$D/pids/munged"
}

network() {
    local node space
    ip link show $BRIDGE >/dev/null 2>&1 || ip link add $BRIDGE type bridge
    ip addr show dev $BRIDGE | grep -q "$SUBNET.1/" || ip addr add "$SUBNET.1/24" dev $BRIDGE
    ip link set $BRIDGE up
    for node in $(seq $NODES); do
        space=instar-n$node
        ip netns list | grep -q "^$space\b" || ip netns add "$space"
        ip -n "$space" link show eth0 >/dev/null 2>&1 && continue
        ip link add "instarv$node" type veth peer name eth0 netns "$space"
        ip link set "instarv$node" master $BRIDGE up
        ip -n "$space" addr add "$(address "$node")/24" dev eth0
        ip -n "$space" link set eth0 up
        ip -n "$space" link set lo up
        ip -n "$space" route add default via "$SUBNET.1"
    done
    grep -v '# instar-slurm$' /etc/hosts >"$D/hosts" || true
    for node in $(seq $NODES); do echo "$(address "$node") n$node # instar-slurm"; done >>"$D/hosts"
    getent hosts "$(hostname -s)" >/dev/null || echo "127.0.0.1 $(hostname -s) # instar-slurm" >>"$D/hosts"
    cat "$D/hosts" >/etc/hosts # it may be a mount, which cannot be replaced
}

boot() {
    mkdir -p "$D/spool/n$1"
    setsid nsenter --net="/run/netns/instar-n$1" unshare -u -i -m -p -f --mount-proc --propagation slave \
        bash "$0" inside "$1" </dev/null >>"$D/log/node-n$1" 2>&1 &
    local outer=$! inner='' try
    for try in $(seq 100); do # unshare starts the node's first process; when that dies, the kernel ends the node
        inner=$(pgrep -P $outer -x bash | head -n 1 || true)
        [ -z "$inner" ] || break
        sleep 0.05
    done
    [ -n "$inner" ] || die "node $1 did not start; see $D/log/node-n$1"
    echo "$inner" >"$D/pids/node-n$1"
}

inside() {
    hostname "n$1"
    mount --bind "$D/resolv.conf" /etc/resolv.conf || true
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    cd /
    slurmd -f "$D/slurm.conf" -N "n$1"
    trap 'exit 0' TERM
    set +e
    while :; do sleep 1000 & wait $!; done
}

enter() { nsenter -t "$(cat "$D/pids/node-n$1")" -n -u -i -p -m "${@:2}"; }

idle() { timeout 5 sinfo -h -N -p day -o '%T %v' 2>/dev/null | grep -cE '^(idle|mixed|allocated) [0-9]' || true; }

await() { # a node counts once it has registered, which is when it has a version
    local try
    for try in $(seq 100); do
        [ "$(idle)" != $NODES ] || return 0
        [ "$try" != 25 ] || scontrol update NodeName="n[1-$NODES]" State=RESUME >/dev/null 2>&1 || true
        sleep 0.2
    done
    sinfo -N -l >&2 || true
    tail -n 5 "$D"/log/* >&2 || true
    die "its nodes did not come up"
}

end() { # end PIDFILE NAME: only what is still the program that we started
    local pid try
    pid=$(cat "$1" 2>/dev/null) || return 0
    rm -f "$1"
    [ -r "/proc/$pid/comm" ] && [[ "$(cat "/proc/$pid/comm")" == "$2"* ]] || return 0
    kill -TERM "$pid" 2>/dev/null || return 0
    for try in $(seq 50); do
        kill -0 "$pid" 2>/dev/null && [ "$(awk '/^State:/{print $2}' "/proc/$pid/status" 2>/dev/null)" != Z ] || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
}

stop() {
    local file node
    [ -d "$D/pids" ] || return 0
    for file in "$D"/pids/node-*; do [ ! -e "$file" ] || kill -KILL "$(cat "$file")" 2>/dev/null || true; rm -f "$file"; done
    end "$D/pids/slurmctld" slurmctld
    end "$D/pids/munged" munged
    for node in $(seq $NODES); do ip netns del "instar-n$node" 2>/dev/null || true; done
    ip link del $BRIDGE 2>/dev/null || true
    grep -v '# instar-slurm$' /etc/hosts >"$D/hosts" && cat "$D/hosts" >/etc/hosts
    rm -rf "$D/state" "$D/spool"
}

[ "$(id -u)" = 0 ] || die "needs root"
case ${1:-} in
    start)
        install_packages
        stop
        configure
        start_munge
        network
        slurmctld -f "$D/slurm.conf"
        for node in $(seq $NODES); do boot "$node"; done
        await
        ;;
    stop) stop ;;
    boot) boot "$2" ;;
    inside) inside "$2" ;;
    crash) kill -KILL "$(cat "$D/pids/node-n$2")" ;;
    kill-slurmd) enter "$2" pkill -KILL -x slurmd ;;
    start-slurmd) enter "$2" slurmd -f "$D/slurm.conf" -N "n$2" ;;
    *) die "start, stop, or crash, boot, kill-slurmd, start-slurmd and the number of a node" ;;
esac
