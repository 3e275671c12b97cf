"""Evaluation: transcribe test sets with teachers and students alike, score and measure them, and write one report.

`asr-kd evaluate` begins and ends in `evaluate.evaluate_systems`. Its steps, file by file:

1. `open_systems`: open model folders, bundles and teachers as `system.System`; `system` also reads external systems,
   of which only hypotheses are available. `settings` holds what can be configured.
2. `system_outputs`: transcribe every set with all systems and score it (`scoring/`).
3. `comparison`: test pairs of systems; compare students with their teacher; pool training seeds.
4. `cost_report`: time all systems; `cost_measures`: arithmetic, size, energy and memory of each.
5. `sample_measures`: emission latency and frame agreement (`frame_measures`), partial results, trailing silence.
6. `sweeps`: chunk sizes (`evaluate.matrix`), and noise, rooms and codecs (`evaluate.robustness`).
7. `results`: everything found as plain data, the contents of results.json, with their provenance.
8. `report/`: results.json, Markdown, LaTeX, the page, model cards and hypotheses (`report.write_report`).

Further verbs: `asr-kd score` is `score_files`, `asr-kd tune` is `tuning`, `asr-kd compare` is `report/compare_runs`.
`cells` formats numbers for all of them.
"""
