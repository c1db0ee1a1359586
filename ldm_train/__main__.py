from ldm_train.tasks.command import main

if __name__ == "__main__":
    main()
