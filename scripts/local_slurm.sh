#!/usr/bin/env bash
# A real Slurm on this machine alone, from Debian's packages, to try launch=slurm with. Needs root.
#
#   scripts/local_slurm.sh start DIR    controller, one node of two CPUs, partitions `low` and `high`; then
#   export SLURM_CONF=DIR/slurm.conf    and sinfo, sbatch, nasx search --multirun launch=slurm ... work
#   scripts/local_slurm.sh stop DIR     ends the daemons that it started
#
# A job in `high` preempts those in `low`: they receive SIGTERM, are ended 5 s later and requeued.
# Everything is in DIR (state, logs, its own munge); a Slurm that is installed on the machine is not touched.
set -euo pipefail
verb=${1:?start or stop}
mkdir -p "${2:?the folder for its files}"
dir=$(cd "$2" && pwd)
conf=$dir/slurm.conf

stop() {
  for name in slurmd slurmctld munged; do
    [ -s "$dir/$name.pid" ] && kill "$(cat "$dir/$name.pid")" 2>/dev/null && rm -f "$dir/$name.pid"
  done
  return 0
}

start() {
  if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
  fi
  stop
  host=$(hostname -s)
  mkdir -p "$dir/state" "$dir/spool"
  head -c 1024 /dev/urandom >"$dir/munge.key" && chmod 400 "$dir/munge.key"
  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"
  cat >"$conf" <<EOF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=10
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmctldDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=3
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
JobRequeue=1
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/jobs.txt
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
  export SLURM_CONF=$conf
  slurmctld -c
  slurmd
  for _ in $(seq 50); do
    sinfo -h -o %T 2>/dev/null | grep -q idle && break
    sleep 0.2
  done
  sinfo
  echo "export SLURM_CONF=$conf"
}

"$verb"
