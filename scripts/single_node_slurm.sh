#!/usr/bin/env bash
# A Slurm cluster of this one machine, to try sweeps and for the tests. Needs root, and Debian's packages:
#   apt-get install --no-install-recommends slurm-wlm slurmctld slurmd slurm-client munge
#   source <(scripts/single_node_slurm.sh start FOLDER)    # prints: export SLURM_CONF=FOLDER/slurm.conf
#   scripts/single_node_slurm.sh restart-slurmd FOLDER     # as after a crash of the node's daemon
#   scripts/single_node_slurm.sh stop FOLDER
set -euo pipefail
[ $# = 2 ] || { sed -n 2,6p "$0" >&2; exit 2; }
what=$1 folder=$(mkdir -p "$2" && cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf

wait_for() {  # a command that succeeds within 40 s
  for _ in $(seq 200); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
  echo "gave up waiting for: $*; see $folder/log" >&2
  exit 1
}

idle() { sinfo --noheader --format=%T | grep -qE 'idle|mixed|allocated'; }

stopped() { ! kill -0 "$1" 2>/dev/null; }

start() {
  local host
  host=$(hostname -s)
  mkdir -p "$folder"/{spool,state,log} /run/munge
  chown munge:munge /run/munge
  # cred_expire is also how long a requeued job waits; its default is two minutes
  cat >"$SLURM_CONF" <<EOF
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,batch_sched_delay=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=20
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
EOF
  munge -n 2>/dev/null | unmunge >/dev/null 2>&1 || runuser -u munge -- munged --force
  wait_for bash -c 'munge -n | unmunge'
  slurmctld
  slurmd
  wait_for idle
  echo "export SLURM_CONF=$SLURM_CONF"
}

stop_slurmd() {
  local pid
  pid=$(cat "$folder/slurmd.pid")
  kill "$pid"
  wait_for stopped "$pid"
}

no_jobs() { [ -z "$(squeue --noheader)" ]; }

stop() {  # jobs first: a step that outlives its daemons would report to the next cluster
  local pids
  pids=$(cat "$folder"/slurmctld.pid "$folder"/slurmd.pid)
  scancel --user=root || true
  wait_for no_jobs || true
  scontrol shutdown
  for pid in $pids; do wait_for stopped "$pid"; done
}

case $what in
  start) start ;;
  restart-slurmd) stop_slurmd; slurmd; wait_for idle ;;
  stop) stop ;;
  *) echo "unknown command $what (valid: start, restart-slurmd, stop)" >&2; exit 2 ;;
esac
