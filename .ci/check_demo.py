"""Checks the demo's leaderboard: trained detectors learnt Demo-A and carry something over to Demo-B."""

import csv
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
auc = {(row["detector"], row["test_set"]): float(row["frame_auc"]) for row in rows}
trained = {row["detector"] for row in rows if row["selected_on"] != "not trained"}
faults = [f"only {len(trained)} trained detectors: {sorted(trained)}"] if len(trained) < 3 else []
faults += [f"{name} on Demo-A: {auc[name, 'Demo-A']:.3f}" for name in trained if auc[name, "Demo-A"] <= 0.80]
faults += [f"{name} on Demo-B: {auc[name, 'Demo-B']:.3f}" for name in trained if auc[name, "Demo-B"] <= 0.55]
for (name, test_set), value in sorted(auc.items()):
    print(f"{name:24} {test_set:8} frame AUC {value:.4f}")
sys.exit("; ".join(faults) or 0)
