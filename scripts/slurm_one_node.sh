#!/usr/bin/env bash
# A SLURM of one node on this machine, for trying hydra/launcher=submitit_slurm without a cluster. Needs root, slurm-wlm, munge.
#
#   scripts/slurm_one_node.sh start DIR     then: export SLURM_CONF=DIR/slurm.conf
#   scripts/slurm_one_node.sh stop DIR
#
# Everything (keys, sockets, logs, state) lives in DIR; no file of the system's own SLURM is touched. DIR must be short:
# socket names are limited to about 100 characters.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit "${1:-2}"; }
[ "${1:-}" = "--help" ] && usage 0
[ $# -eq 2 ] || usage
action=$1
dir=$(readlink -m "$2")

alive() { # a daemon's process, not the zombie that an init which does not reap leaves
  [ -f "$dir/$1.pid" ] && grep -q '^State:[[:space:]]*[^Z[:space:]]' "/proc/$(cat "$dir/$1.pid")/status" 2>/dev/null
}

stop() {
  export SLURM_CONF="$dir/slurm.conf"
  if alive slurmctld; then
    squeue -h -o %A 2>/dev/null | sort -u | xargs -r scancel 2>/dev/null || true
    for _ in $(seq 50); do [ -n "$(squeue -h 2>/dev/null)" ] || break; sleep 0.1; done
  fi
  for name in slurmd slurmctld munged; do
    if alive "$name"; then kill "$(cat "$dir/$name.pid")" || true; fi
  done
  for _ in $(seq 50); do
    alive slurmd || alive slurmctld || alive munged || break
    sleep 0.1
  done
  for name in slurmd slurmctld munged; do
    if alive "$name"; then kill -9 "$(cat "$dir/$name.pid")" || true; fi
  done
  for process in /proc/[0-9]*; do # steps outlive their daemon; the ones of this SLURM carry its config
    case "$(cat "$process/comm" 2>/dev/null)" in
      slurmstepd | slurm_script | srun)
        if tr '\0' '\n' < "$process/environ" 2>/dev/null | grep -qx "SLURM_CONF=$dir/slurm.conf"; then
          kill -9 "${process#/proc/}" 2>/dev/null || true
        fi ;;
    esac
  done
}

start() {
  [ "$(id -u)" = 0 ] || { echo "slurm_one_node: needs root (slurmd starts jobs as their user)" >&2; exit 3; }
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || { echo "slurm_one_node: no $program; apt-get install slurm-wlm munge" >&2; exit 3; }
  done
  mkdir -p "$dir/state" "$dir/spool"
  chmod 755 "$dir"
  head -c 1024 /dev/urandom > "$dir/munge.key"
  chmod 600 "$dir/munge.key"
  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" 2>>"$dir/munged.log"
  port=$(python3 -c 'import socket; s=[socket.socket() for _ in "ab"]; [x.bind(("127.0.0.1",0)) for x in s]; print(*(x.getsockname()[1] for x in s))')
  host=$(hostname -s)
  memory=$(awk '/MemTotal/ {print int($2/1024*0.9)}' /proc/meminfo)
  cat > "$dir/slurm.conf" <<CONF
ClusterName=onenode
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=${port% *}
SlurmdPort=${port#* }
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
JobRequeue=1
ReturnToService=2
KillWait=1
MpiDefault=none
SwitchType=switch/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF="$dir/slurm.conf"
  slurmctld -f "$dir/slurm.conf" -c
  slurmd -f "$dir/slurm.conf" -c
  for _ in $(seq 150); do
    sinfo -h -o '%t' 2>/dev/null | grep -q '^idle' && return
    sleep 0.2
  done
  echo "slurm_one_node: the node did not come up; see $dir/slurmctld.log and $dir/slurmd.log" >&2
  stop
  exit 4
}

case "$action" in start | stop) "$action" ;; *) usage ;; esac
