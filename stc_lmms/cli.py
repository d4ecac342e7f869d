import sys
def main():
    from stc_lmms import plugin
    plugin.install_task_discovery()
    from lmms_eval.cli.dispatch import main
    sys.exit(main())
